"""Looks at all peers a few times a second, for as long as a run lasts, and writes it down."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chaos.record import Sample, append
from chaos.targets.base import Target

EVERY_S = 0.25
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
        while not self._over.wait(EVERY_S):
            began = time.monotonic()
            peers = {name: _kept(status) for name, status in self._target.statuses().items()}
            append(self._path, Sample(began, peers))


def _kept(status: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: status[name] for name in KEPT if name in status}
    if "engine" in status:
        kept["engine"] = status["engine"]["state"]
    return kept
