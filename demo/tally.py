"""How often each task was executed: counted by the workers themselves, on disk, as it happens.

Loaded into each worker by ``--preload demo.tally``. Each line is one write to a file of the worker
process, so that what was counted survives whatever is killed later.
"""

from __future__ import annotations

import collections
import itertools
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin

DIRECTORY_VARIABLE = "DASK_HA_DEMO_TALLY"
_STARTED, _FINISHED, _RESCHEDULED = "started", "finished", "rescheduled"
_GOING_ON = ("cancelled", "resumed", "long-running")  # back from these: the same execution


class Tally(WorkerPlugin):
    """Writes a line for each execution that starts, and how it ended.

    The last tasks of a P2P shuffle find out as they start whether they are on the worker that has
    their data, and ask to be rescheduled if not. Such a start is no execution.
    """

    name = "demo-tally"

    def __init__(self, directory: Path) -> None:
        path = directory / f"worker-{os.getpid()}.tsv"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        if finish == "executing" and start not in _GOING_ON:
            self._write(_STARTED, key)
        elif finish == "rescheduled":
            self._write(_RESCHEDULED, key)
        elif finish == "memory" and start in ("executing", "long-running"):
            self._write(_FINISHED, key)

    def _write(self, event: str, key: Any) -> None:
        os.write(self._file, f"{time.time():.6f}\t{event}\t{key!r}\n".encode())


@dataclass(slots=True)
class Count:
    """What all workers have counted."""

    executions: collections.Counter[str] = field(default_factory=collections.Counter)
    finished_at: list[float] = field(default_factory=list)  # wall clock, sorted
    worker_pids: set[int] = field(default_factory=set)

    @property
    def more_than_once(self) -> dict[str, int]:
        """The tasks that were executed more than once, with how often."""
        return {key: times for key, times in self.executions.items() if times > 1}

    def pause_after(self, moment: float, window_s: float) -> float:
        """The longest time without a finished task that began in the window after ``moment``.

        A pause that had begun before counts from ``moment`` on.
        """
        until = moment + window_s
        times = [moment, *(t for t in self.finished_at if t > moment)]
        gaps = [b - a for a, b in itertools.pairwise(times) if a < until]
        return max(gaps, default=0.0)


def read(directory: Path) -> Count:
    """Add up the files of all workers."""
    count = Count()
    for path in directory.glob("worker-*.tsv"):
        count.worker_pids.add(int(path.stem.split("-")[1]))
        for line in path.read_text().splitlines():
            at, event, key = line.split("\t", 2)
            if event == _STARTED:
                count.executions[key] += 1
            elif event == _RESCHEDULED:
                count.executions[key] -= 1
            else:
                count.finished_at.append(float(at))
    count.finished_at.sort()
    return count


async def dask_setup(worker: Worker) -> None:
    """Called by Dask in each worker that preloads this module."""
    await worker.plugin_add(Tally(Path(os.environ[DIRECTORY_VARIABLE])), name=Tally.name)
