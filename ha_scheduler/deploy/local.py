"""``LocalHACluster``: a replicated scheduler with workers on this machine, each a real process.

It is used like ``distributed.LocalCluster``, and is for experiments with failures::

    with LocalHACluster(n_peers=3, n_workers=2) as cluster, cluster.get_client() as client:
        future = client.submit(work)
        cluster.leader.kill()          # daemon and engine, kill -9
        future.result()                # as if nothing had happened

The output of the processes is in files under ``cluster.directory``; an error at start has the last
lines of each.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dask.utils import parse_timedelta
from distributed.comm import CommClosedError
from distributed.core import Status
from distributed.deploy.cluster import Cluster
from distributed.objects import SchedulerInfo
from distributed.security import Security
from distributed.utils import Log, Logs
from distributed.worker_memory import parse_memory_limit

from ha_scheduler.deploy.cell import POLL_S, LocalCell
from ha_scheduler.deploy.child import ChildProcess
from ha_scheduler.deploy.environment import worker_environment
from ha_scheduler.deploy.following import FollowsLeader, LeaderConnection
from ha_scheduler.deploy.peer_process import PeerProcess
from ha_scheduler.deploy.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

START_TIMEOUT = "60s"  # three daemons, three engines and the workers on one busy core
LEADER_TIMEOUT = "10s"  # many times an election with default timing
WORKER_STOP_TIMEOUT_S = 5.0

_open: weakref.WeakSet[LocalHACluster] = weakref.WeakSet()


class LocalHACluster(FollowsLeader, Cluster):
    """A cell of ``n_peers`` peers with ``n_workers`` workers, on loopback.

    Parameters
    ----------
    n_peers:
        Peers of the cell: 1, 3, 5 or 7. One peer survives nothing but a restart.
    n_workers, threads_per_worker:
        Workers to start at first (see ``scale``), and threads in each.
    nanny:
        Whether each worker runs under a nanny, which restarts it when it dies.
    memory_limit:
        Of each worker, as with ``LocalCluster``; "auto" divides this machine's memory.
    data_dir:
        Where the ledgers, certificates and logs are kept. Default: a temporary directory, removed
        at close. A cell started again on the data of a former one has its graphs and leader terms.
    security:
        True (default): TLS with certificates made in ``data_dir``. False: plaintext.
    host:
        The loopback address to listen at.
    dashboard_address:
        ``":0"`` (default): each engine serves a dashboard at a free port. None: none.
    peer_options, worker_options:
        Further words for the command line of each ``dask-ha-scheduler``, such as
        ``["--election-ticks=20"]``, and of each ``dask worker``, such as
        ``["--resources=GPU=1"]``.
    start_timeout, leader_timeout:
        How long to wait for the whole cluster at start, and for a leader later.
    asynchronous, loop, name, quiet:
        As with ``LocalCluster``.
    """

    _name = "LocalHACluster"

    def __init__(
        self,
        n_workers: int = 2,
        *,
        n_peers: int = 3,
        threads_per_worker: int = 1,
        nanny: bool = True,
        memory_limit: str | float | None = "auto",
        data_dir: str | os.PathLike[str] | None = None,
        security: bool = True,
        host: str = "127.0.0.1",
        dashboard_address: str | None = ":0",
        peer_options: Sequence[str] = (),
        worker_options: Sequence[str] = (),
        start_timeout: str | float = START_TIMEOUT,
        leader_timeout: str | float = LEADER_TIMEOUT,
        name: str | None = None,
        quiet: bool = True,
        asynchronous: bool = False,
        loop: Any = None,
    ) -> None:
        if n_peers not in (1, 3, 5, 7):
            raise ValueError(f"n_peers must be 1, 3, 5 or 7, not {n_peers}")
        if dashboard_address not in (None, ":0"):
            raise ValueError("dashboard_address is ':0' or None: each peer needs a port of its own")
        super().__init__(asynchronous=asynchronous, loop=loop, quiet=quiet, name=name)
        self.cell: LocalCell | None = None
        self.workers: dict[str, WorkerProcess] = {}
        self.security = Security()
        self.directory = Path()
        self._n_workers = n_workers
        self._n_peers = n_peers
        self._tls = security
        self._host = host
        self._dashboard = dashboard_address is not None
        self._data_dir = Path(data_dir).absolute() if data_dir is not None else None
        self._peer_options = tuple(peer_options)
        self._worker_options = tuple(worker_options)
        self._threads_per_worker = threads_per_worker
        self._nanny = nanny
        self._memory_limit = memory_limit
        self._start_timeout_s = float(parse_timedelta(start_timeout))
        self._leader_timeout_s = float(parse_timedelta(leader_timeout))
        self._worker_numbers = itertools.count()
        self._scale_lock = asyncio.Lock()
        if not self.called_from_running_loop:
            self._loop_runner.start()
            try:
                self.sync(self._start)
            except BaseException:
                self._loop_runner.stop()
                raise

    # -- experiments

    @property
    def peers(self) -> list[PeerProcess]:
        """The peers, in the order of their names: ``a``, ``b``, ``c``."""
        return self._require_cell().peers

    @property
    def leader(self) -> PeerProcess:
        """The leader; waits up to ``leader_timeout`` for one. Raises ``TimeoutError``.

        It blocks, with an asynchronous cluster too; ``await cluster.find_leader()`` does not.
        """
        cell = self._require_cell()
        deadline = time.monotonic() + self._leader_timeout_s
        while (leader := cell.leader()) is None:
            self._check_deadline(deadline)
            time.sleep(POLL_S)
        return leader

    def find_leader(self) -> Any:
        """As ``leader``, without blocking the event loop of an asynchronous cluster."""
        return self.sync(self._find_leader)

    def transfer(self, to: PeerProcess | str | None = None) -> Any:
        """Transfer leadership to the peer ``to`` (None: to the most up-to-date one).

        Returns the new leader. Raises ``ControlError``, with the reason, if the leader refuses.
        """
        return self.sync(self._transfer, to.name if isinstance(to, PeerProcess) else to)

    def history(self) -> Any:
        """The failovers so far, each with its phases in seconds; oldest first."""
        return self.sync(asyncio.to_thread, self._require_cell().history)

    # -- the interface of LocalCluster

    @property
    def scheduler_address(self) -> str:
        """``ha://127.0.0.1:…,127.0.0.1:…,127.0.0.1:…``."""
        return self.cell.cell.client_address if self.cell is not None else "<Not Connected>"

    @property
    def dashboard_link(self) -> str:
        """The dashboard of the last known leader."""
        if not self._dashboard:
            return ""  # the engine's HTTP server is there all the same, for its metrics
        return super().dashboard_link

    def scale(self, n: int = 0) -> Any:
        """Have ``n`` workers. Surplus workers are retired: the others keep their results."""
        return self.sync(self._scale, n)

    def scale_up(self, n: int) -> Any:
        """As ``scale``, for ``Adaptive``."""
        return self.scale(n)

    def scale_down(self, workers: Iterable[str]) -> Any:
        """End the workers of these names, for ``Adaptive``, after their retirement."""
        return self.sync(self._end_workers, [self.workers[name] for name in workers])

    def get_logs(
        self, cluster: bool = True, scheduler: bool = True, workers: bool | Iterable[str] = True
    ) -> Any:
        """The recent output of each process by name.

        ``scheduler``: of the peers. ``workers``: True, or the names of workers.
        """
        return self.sync(self._get_logs, cluster=cluster, scheduler=scheduler, workers=workers)

    # -- start

    def __await__(self) -> Any:
        async def start() -> LocalHACluster:
            if self.status == Status.created:
                await self._start()
            return self

        return start().__await__()

    async def _start(self) -> None:
        try:
            self._make_cell()
            cell = self._require_cell()
            # Together: both take some seconds, and a worker waits for the cell to have a leader.
            added = self._start_workers(self._n_workers)
            await cell.start(self._start_timeout_s)
            self.scheduler_comm = LeaderConnection.to(
                self.scheduler_address, self.security.get_connection_args("client")
            )
            await self._await_workers(added)
            await self._start_watching()
        except BaseException:
            await self._close()
            raise

    async def _start_watching(self) -> None:
        """Upstream's start, retried with the next leader."""
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            try:
                await super()._start()
                return
            except CommClosedError:
                if time.monotonic() > deadline:
                    raise
            await self._end_watch()
            await asyncio.sleep(POLL_S)

    def _make_cell(self) -> None:
        self.directory = self._data_dir or Path(tempfile.mkdtemp(prefix="dask-ha-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        _open.add(self)
        self.cell = LocalCell(
            self.directory,
            self._n_peers,
            host=self._host,
            tls=self._tls,
            dashboard=self._dashboard,
            options=self._peer_options,
            restart=lambda peer: self.sync(self._restart, peer),
        )
        files = self.cell.client_tls
        if files is not None:
            self.security = Security(
                require_encryption=True,
                tls_ca_file=str(files.ca_file),
                tls_client_cert=str(files.cert_file),
                tls_client_key=str(files.key_file),
                tls_worker_cert=str(files.cert_file),
                tls_worker_key=str(files.key_file),
            )

    # -- workers

    async def _scale(self, n: int) -> None:
        async with self._scale_lock:
            surplus = list(self.workers.values())[n:]
            if surplus:
                await self._retire(surplus)
                await self._end_workers(surplus)
            await self._await_workers(self._start_workers(n - len(self.workers)))

    async def _retire(self, workers: Sequence[WorkerProcess]) -> None:
        names = [worker.name for worker in workers]
        await self._leading().retire_workers(names=names, close_workers=False, remove=True)

    async def _end_workers(self, workers: Sequence[WorkerProcess]) -> None:
        for worker in workers:
            self.workers.pop(worker.name, None)
        await asyncio.gather(*(worker.stop(WORKER_STOP_TIMEOUT_S) for worker in workers))

    def _start_workers(self, count: int) -> list[WorkerProcess]:
        added = [self._new_worker() for _ in range(count)]
        for worker in added:
            worker.start()
            self.workers[worker.name] = worker
        return added

    async def _await_workers(self, added: Sequence[WorkerProcess]) -> None:
        cell = self._require_cell()
        deadline = time.monotonic() + self._start_timeout_s
        wanted = {worker.name for worker in added}
        while wanted:
            # A failing leader may lose more connections than a call is retried for.
            with contextlib.suppress(CommClosedError):
                self.scheduler_info = SchedulerInfo(await self._identity())
                wanted -= {str(name) for name in self.observed}
            cell.check(added)
            if time.monotonic() > deadline:
                raise cell.failure(
                    f"workers {', '.join(sorted(wanted))} did not come within "
                    f"{self._start_timeout_s:g} s",
                    [*cell.peers, *added],
                )
            if wanted:
                await asyncio.sleep(POLL_S)

    def _new_worker(self) -> WorkerProcess:
        cell = self._require_cell()
        name = str(next(self._worker_numbers))
        return WorkerProcess(
            name,
            self.scheduler_address,
            self.directory / f"worker-{name}",
            worker_environment(cell.dask_config),
            host=self._host,
            threads=self._threads_per_worker,
            memory_limit=self._memory_limit_of_each(),
            nanny=self._nanny,
            options=self._worker_options,
        )

    def _memory_limit_of_each(self) -> int:
        workers = max(1, self._n_workers)
        return parse_memory_limit(self._memory_limit, 1, workers, logger=logger) or 0

    async def _identity(self) -> dict[str, Any]:
        async with asyncio.timeout(self._start_timeout_s):
            identity: dict[str, Any] = await self._leading().identity()
        return identity

    # -- peers

    async def _find_leader(self) -> PeerProcess:
        cell = self._require_cell()
        deadline = time.monotonic() + self._leader_timeout_s
        while (leader := await asyncio.to_thread(cell.leader)) is None:
            self._check_deadline(deadline)
            await asyncio.sleep(POLL_S)
        return leader

    async def _transfer(self, to: str | None) -> PeerProcess:
        cell, leader = self._require_cell(), await self._find_leader()
        if to == leader.name:
            return leader
        deadline = time.monotonic() + self._leader_timeout_s
        # A former leader starts a fresh engine, which takes a moment to catch up.
        while not await asyncio.to_thread(cell.has_successor, leader.name, to):
            if time.monotonic() > deadline:
                break  # the leader gives the reason
            await asyncio.sleep(POLL_S)
        await asyncio.to_thread(cell.transfer, leader.name, to)
        return await self._find_leader()

    async def _restart(self, peer: PeerProcess) -> None:
        await self._require_cell().restart(peer, self._start_timeout_s)

    def _check_deadline(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no peer leads after {self._leader_timeout_s:g} s: {self.peers}")

    def _leading(self) -> LeaderConnection:
        self._require_cell()
        assert self.scheduler_comm is not None
        return self.scheduler_comm

    def _require_cell(self) -> LocalCell:
        if self.cell is None:
            raise RuntimeError("the cluster has not been started; await it, or use `async with`")
        return self.cell

    # -- logs and the end

    async def _get_logs(
        self, cluster: bool = True, scheduler: bool = True, workers: bool | Iterable[str] = True
    ) -> Any:
        logs = Logs()
        if cluster:
            logs["Cluster"] = Log("\n".join(line for _, line in self._cluster_manager_logs))
        if scheduler:
            logs.update({f"Peer {peer.name}": Log(peer.tail()) for peer in self.peers})
        wanted = None if isinstance(workers, bool) else {str(name) for name in workers}
        for worker in self.workers.values() if workers else ():
            if wanted is None or worker.name in wanted:
                logs[f"Worker {worker.name}"] = Log(worker.tail())
        return logs

    async def _close(self) -> None:
        if self.status == Status.closed:
            return
        try:
            await super()._close()
        finally:
            # Workers first: without peers they would look for them until killed.
            workers = self.workers.values()
            await asyncio.gather(*(worker.stop(WORKER_STOP_TIMEOUT_S) for worker in workers))
            if self.cell is not None:
                await self.cell.stop()
            await asyncio.to_thread(self._abandon)

    def _abandon(self) -> None:
        """Kill every process left, and remove a temporary directory."""
        _open.discard(self)
        children: list[ChildProcess] = [*self.workers.values()]
        if self.cell is not None:
            children += self.cell.peers
        for child in children:
            child.kill()
        if self._data_dir is None and self.directory != Path():
            shutil.rmtree(self.directory, ignore_errors=True)


@atexit.register
def _abandon_all() -> None:
    for cluster in list(_open):
        if cluster.is_ours:
            cluster._abandon()
