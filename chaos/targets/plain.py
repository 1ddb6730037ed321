"""One plain ``dask scheduler`` with plain workers, for comparison: the same faults, no cell.

It has one peer, called ``scheduler``, which is its own daemon and has no engine; started again it
is an empty one at the same address. Nothing of ours runs in its processes: plaintext, no tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import Signals
from typing import Any, TypeVar

from chaos.targets.base import Part, Pids, TargetFailed
from chaos.targets.clients import start_client
from chaos.targets.signals import signal_child
from chaos.targets.workers import WorkerChildren
from ha_scheduler.deploy.child import ChildProcess
from ha_scheduler.deploy.environment import worker_environment
from ha_scheduler.deploy.ports import free_ports

HOST = "127.0.0.1"
SCHEDULER = "scheduler"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 3.0
POLL_S = 0.1
CONNECT_S = 0.5

_T = TypeVar("_T")


class Plain(WorkerChildren):
    """``n_workers`` workers under nannies."""

    name = "plain"
    abilities = frozenset({"processes", "workers", "files", "shared-files", "environment"})
    peers = (SCHEDULER,)
    control = None

    def __init__(self, root: Path, n_workers: int = 2) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="starter")
        (self._port,) = free_ports(HOST, 1)
        self._scheduler = self._child(
            SCHEDULER,
            "distributed.cli.dask_scheduler",
            [f"--host={HOST}", f"--port={self._port}", "--no-dashboard", "--dashboard-address=:0"],
        )
        self._workers = {
            str(number): self._child(
                f"worker-{number}",
                "distributed.cli.dask_worker",
                [self.address, f"--name={number}", "--nthreads=1", "--no-dashboard", "--nanny"],
            )
            for number in range(n_workers)
        }
        self.workers = tuple(self._workers)

    @property
    def address(self) -> str:
        return f"tcp://{HOST}:{self._port}"

    def start(self) -> None:
        self._on_starter(self._scheduler.start)
        for worker in self._workers.values():
            self._on_starter(worker.start)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.ready():
            if time.monotonic() > deadline:
                said = self._scheduler.tail()
                raise TargetFailed(f"no scheduler after {START_TIMEOUT_S:g} s: {said}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        async def stop_all() -> None:
            children = [*self._workers.values(), self._scheduler]
            await asyncio.gather(*(child.stop(STOP_TIMEOUT_S) for child in children))

        self._on_starter(lambda: asyncio.run(stop_all()))

    # -- the scheduler

    def pids(self, peer: str) -> Pids:
        return Pids(self._scheduler.pid, None)

    def signal(self, peer: str, part: Part, signum: Signals) -> None:
        signal_child(self._scheduler, part, signum)

    def restart(self, peer: str) -> None:
        self._restart(self._scheduler)

    def environment(self, peer: str) -> dict[str, str]:
        return self._scheduler.environment

    def options(self, peer: str) -> list[str]:
        return []  # none of ours

    def directory(self, peer: str) -> Path:
        return self.root / SCHEDULER

    def log(self, peer: str) -> Path:
        return self._scheduler.log_path

    def statuses(self) -> Mapping[str, Mapping[str, Any]]:
        """As much as there is to say: it is there, and leads."""
        up = self.ready()
        return {SCHEDULER: {"role": "leader", "term": 0, "serving": True}} if up else {}

    def leader(self) -> str | None:
        return SCHEDULER

    def ready(self) -> bool:
        """Whether somebody listens; what a new scheduler has of workers is its own affair."""
        with contextlib.suppress(OSError):
            socket.create_connection((HOST, self._port), CONNECT_S).close()
            return True
        return False

    # -- workers

    def restart_worker(self, worker: str) -> None:
        self._restart(self._workers[worker])

    # -- clients

    def spawn_client(
        self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        return start_client(arguments, log, {**worker_environment(None), **(environment or {})})

    # -- within

    def _child(self, name: str, module: str, arguments: Sequence[str]) -> ChildProcess:
        log = self.root / name / "output.log"
        return ChildProcess(name, module, arguments, log, worker_environment(None))

    def _restart(self, child: ChildProcess) -> None:
        child.kill()
        self._on_starter(child.start)

    def _on_starter(self, call: Callable[[], _T]) -> _T:
        return self._starter.submit(call).result()
