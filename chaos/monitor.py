"""Looks at all peers a few times a second, for as long as a run lasts, and writes it down."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from chaos.record import Sample, append
from chaos.targets.base import Target

EVERY_S = 0.25
PROCESSES_EVERY = 8  # samples
#: What is kept of a status; the engine's state goes with it.
KEPT = (
    *("role", "term", "leader", "serving", "commit", "applied", "first_index", "last_index"),
    *("lease_s", "vip_held", "rejected", "tick_gap_s_max"),
)


class Monitor:
    """A thread, from ``__enter__`` to ``__exit__``."""

    def __init__(self, target: Target, path: Path) -> None:
        self._target = target
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        for number in itertools.count():
            if self._over.wait(EVERY_S):
                return
            began = time.monotonic()
            peers = {name: _kept(status) for name, status in self._target.statuses().items()}
            processes = {} if number % PROCESSES_EVERY else dict(self._processes())
            append(self._path, Sample(began, peers, processes))

    def _processes(self) -> Iterator[tuple[str, dict[str, int]]]:
        """What each daemon and engine takes."""
        for peer in self._target.peers:
            for part, pid in zip(("daemon", "engine"), self._target.pids(peer), strict=True):
                with contextlib.suppress(psutil.Error, OSError):
                    if pid is not None:
                        process = psutil.Process(pid)
                        taken = {
                            "pid": pid,
                            "rss": process.memory_info().rss,
                            "descriptors": process.num_fds(),
                            "threads": process.num_threads(),
                        }
                        yield f"{part} {peer}", taken


def _kept(status: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: status[name] for name in KEPT if name in status}
    if "engine" in status:
        kept["engine"] = status["engine"]["state"]
    return kept
