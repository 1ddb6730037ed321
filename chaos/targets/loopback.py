"""A whole cell on loopback, with TLS and tokens, each peer and worker a real process.

Everything ends with this process by any cause, as the kernel does it: the guard has nothing to heal
after a harness that was killed.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import Signals
from typing import Any, TypeVar

from msgspec import to_builtins

from chaos.targets.base import Part, Pids, TargetFailed
from chaos.targets.clients import start_client
from chaos.targets.signals import pids_of, signal_child
from chaos.targets.workers import WorkerChildren
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.deploy.cell import LocalCell, LocalCellError, is_ready, is_serving
from ha_scheduler.deploy.child import ChildProcess
from ha_scheduler.deploy.environment import worker_environment
from ha_scheduler.deploy.peer_process import PeerProcess
from ha_scheduler.deploy.worker_process import WorkerProcess
from ha_scheduler.errors import ControlError
from ha_scheduler.failpoints import VARIABLE

HOST = "127.0.0.1"
START_TIMEOUT_S = 90.0
MEMORY_LIMIT = 1 << 30  # of a worker
STOP_TIMEOUT_S = 3.0
POLL_S = 0.1

_T = TypeVar("_T")


class Loopback(WorkerChildren):
    """``n_peers`` peers and ``n_workers`` workers under ``root``."""

    name = "loopback"
    abilities = frozenset(
        {
            *("cell", "processes", "workers", "files", "shared-files"),
            *("environment", "failpoints", "control"),
        }
    )

    def __init__(
        self, root: Path, n_peers: int = 3, n_workers: int = 2, options: Sequence[str] = ()
    ) -> None:
        """``options``: further words for each ``dask-ha-scheduler``."""
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        # One thread that lives as long as this: see ``targets/base.py``.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="starter")
        self._cell = LocalCell(
            root,
            n_peers,
            host=HOST,
            tls=True,
            dashboard=False,
            options=options,
            restart=PeerProcess.start,
        )
        self.peers = self._cell.cell.names
        self.failpoints.mkdir(exist_ok=True)
        for peer in self._cell.peers:
            peer.environment[VARIABLE] = str(self.failpoints)
        self._workers = {str(number): self._new_worker(str(number)) for number in range(n_workers)}
        self.workers = tuple(self._workers)

    @property
    def address(self) -> str:
        return self._cell.cell.client_address

    @property
    def failpoints(self) -> Path:
        """A file here is a token (``ha_scheduler/failpoints.py``)."""
        return self.root / "failpoints"

    def start(self) -> None:
        try:
            self._on_starter(self._start)
        except LocalCellError as error:
            raise TargetFailed(str(error)) from error

    def stop(self) -> None:
        self._on_starter(lambda: asyncio.run(self._stop()))
        self._starter.shutdown()
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="starter")

    # -- peers

    def process(self, peer: str) -> PeerProcess:
        """Raises ``KeyError``."""
        return self._cell.peer(peer)

    def pids(self, peer: str) -> Pids:
        return pids_of(self.process(peer))

    def signal(self, peer: str, part: Part, signum: Signals) -> None:
        signal_child(self.process(peer), part, signum)

    def restart(self, peer: str) -> None:
        self._restart(self.process(peer))

    def environment(self, peer: str) -> dict[str, str]:
        return self.process(peer).environment

    def options(self, peer: str) -> list[str]:
        return self.process(peer).options

    def directory(self, peer: str) -> Path:
        return self.root / f"peer-{peer}" / "data"

    def log(self, peer: str) -> Path:
        return self.process(peer).log_path

    # -- what the peers say

    @property
    def control(self) -> ControlClient:
        return self._cell.control

    def statuses(self) -> Mapping[str, Mapping[str, Any]]:
        names = [p.name for p in self._cell.peers if p.alive and not p.paused]
        answers = self.control.of_all(self.control.status, names)
        return {
            name: to_builtins(answer)
            for name, answer in answers.items()
            if not isinstance(answer, ControlError)
        }

    def leader(self) -> str | None:
        leader = self._cell.leader()
        return leader.name if leader is not None else None

    def ready(self) -> bool:
        try:
            found = [self.control.status(name) for name in self.peers]
        except ControlError:
            return False
        agreed = len({(status.term, status.leader) for status in found}) == 1
        return agreed and all(map(is_ready, found)) and any(map(is_serving, found))

    # -- workers

    def restart_worker(self, worker: str) -> None:
        self._restart(self._workers[worker])

    # -- clients

    def spawn_client(
        self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        return start_client(
            arguments, log, {**worker_environment(self._cell.dask_config), **(environment or {})}
        )

    # -- within

    def _start(self) -> None:
        for worker in self._workers.values():
            worker.start()
        asyncio.run(self._cell.start(START_TIMEOUT_S))
        deadline = time.monotonic() + START_TIMEOUT_S
        children: list[ChildProcess] = [*self._cell.peers, *self._workers.values()]
        while not self.ready():
            self._cell.check(children)
            if time.monotonic() > deadline:
                raise self._cell.failure(f"not ready after {START_TIMEOUT_S:g} s", children)
            time.sleep(POLL_S)

    async def _stop(self) -> None:
        # Workers first: without peers they would look for them until killed.
        workers = self._workers.values()
        await asyncio.gather(*(worker.stop(STOP_TIMEOUT_S) for worker in workers))
        await asyncio.gather(*(peer.stop(STOP_TIMEOUT_S) for peer in self._cell.peers))
        for child in (*workers, *self._cell.peers):
            child.kill()

    def _restart(self, child: ChildProcess) -> None:
        child.kill()
        self._on_starter(child.start)

    def _on_starter(self, call: Callable[[], _T]) -> _T:
        return self._starter.submit(call).result()

    def _new_worker(self, name: str) -> WorkerProcess:
        return WorkerProcess(
            name,
            self.address,
            self.root / f"worker-{name}",
            worker_environment(self._cell.dask_config),
            host=HOST,
            threads=1,
            memory_limit=MEMORY_LIMIT,
            nanny=True,
        )
