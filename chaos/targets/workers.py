"""The workers of a target that are children of the harness, for targets to inherit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from signal import Signals

from chaos.targets.base import Part, Pids
from chaos.targets.signals import pids_of, signal_child
from ha_scheduler.deploy.child import ChildProcess


class WorkerChildren:
    """What a target says of its workers. How one is started again is the target's own."""

    _workers: Mapping[str, ChildProcess]

    def worker_pids(self, worker: str) -> Pids:
        return pids_of(self._workers[worker])

    def worker_log(self, worker: str) -> Path:
        return self._workers[worker].log_path

    def signal_worker(self, worker: str, part: Part, signum: Signals) -> None:
        signal_child(self._workers[worker], part, signum)
