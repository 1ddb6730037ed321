"""A cell whose peers, workers and clients are on hosts of their own: network namespaces.

As an operator would do it: ``dask-ha-scheduler init``, then ``dask-ha-scheduler --peers …`` on each
host with default ports and times, tokens of a client and a worker, ``dask worker ha://…`` with the
Dask configuration that ``init`` made, and clients on a host of their own. Each process runs its
host's network stack; disk and clock are one machine's.

Questions to a peer are asked from its own host, so a peer that is cut off answers them.

Needs root, iproute2 and nftables. The processes end with this one by any cause; the namespaces are
then removed by ``will`` or by the next run.
"""

from __future__ import annotations

import asyncio
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import Signals
from typing import TypeVar

import psutil
from msgspec import to_builtins

from chaos.targets.base import Part, Pids, TargetFailed
from chaos.targets.clients import start_client
from chaos.targets.signals import pids_of, signal_child
from chaos.targets.workers import WorkerChildren
from chaos.wire.network import SUBNET, Network
from ha_scheduler.cell.peers import DEFAULT_DASK_PORT, Cell, parse_peers
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.cli.token_admin import TokenAdmin
from ha_scheduler.deploy.cell import is_ready, is_serving
from ha_scheduler.deploy.child import ChildProcess
from ha_scheduler.deploy.environment import peer_environment, worker_environment
from ha_scheduler.deploy.peer_process import PeerProcess
from ha_scheduler.deploy.worker_process import WorkerProcess
from ha_scheduler.errors import ControlError
from ha_scheduler.failpoints import VARIABLE
from ha_scheduler.protocol.control import Request, Status
from ha_scheduler.security.authority import client_files, peer_files
from ha_scheduler.security.dask_config import DASK_CONFIG_FILE
from ha_scheduler.security.files import MODE_PRIVATE, write_file
from ha_scheduler.security.token_source import token_file

CLIENT_HOST = "client"
VIP = f"{SUBNET}.100"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 0.5
ASK_TIMEOUT_S = 2.0
POLL_S = 0.1
MEMORY_LIMIT = 1 << 30  # of a worker

_T = TypeVar("_T")


class Namespaces(WorkerChildren):
    """``n_peers`` peers, and ``n_workers`` workers called ``w0``…, a host each."""

    name = "namespaces"

    def __init__(
        self,
        root: Path,
        n_peers: int = 3,
        n_workers: int = 2,
        options: Sequence[str] = (),
        vip: bool = False,
    ) -> None:
        """``options``: further words for each ``dask-ha-scheduler``. ``vip``: clients and workers
        know the cell by a virtual address alone."""
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.peers = tuple(string.ascii_lowercase[:n_peers])
        self.workers = tuple(f"w{number}" for number in range(n_workers))
        self.network = Network([*self.peers, *self.workers, CLIENT_HOST])
        listed = ",".join(f"{name}={self.network.addresses[name]}" for name in self.peers)
        self.cell = parse_peers(listed, any_count=True)
        self.vip = VIP
        self.address = f"tls://{VIP}:{DEFAULT_DASK_PORT}" if vip else self.cell.client_address
        own = {"vip"} if vip else set()
        self.abilities = frozenset(
            {
                *("cell", "processes", "workers", "files", "shared-files", "environment"),
                *("failpoints", "control", "network", "wire", "clients"),
                *own,
            }
        )
        self.tls = root / "tls"
        self._options = [*options, *([f"--vip={VIP}/24"] if vip else ())]
        self._listed = listed
        # One thread that lives as long as this: see ``targets/base.py``.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="starter")
        self._control: ControlClient | None = None
        self._peers = {name: self._new_peer(name) for name in self.peers}
        self._workers: dict[str, WorkerProcess] = {}
        self._clients: list[subprocess.Popen[bytes]] = []

    @property
    def failpoints(self) -> Path:
        """A file here is a token (``ha_scheduler/failpoints.py``)."""
        return self.root / "failpoints"

    @property
    def will(self) -> Sequence[Sequence[str]]:
        """What removes the hosts when the harness cannot."""
        return self.network.will

    def start(self) -> None:
        self.network.open()
        try:
            if not self.tls.exists():
                self._init()
            files = peer_files(self.tls, self.peers[0])
            self._control = _FromWithin(self.network, self.cell, files, ASK_TIMEOUT_S)
            self.failpoints.mkdir(exist_ok=True)
            self._workers = {name: self._new_worker(name) for name in self.workers}
            for peer in self._peers.values():
                self._begin(peer)
            self._wait(lambda: self.leader() is not None, "nobody leads")
            self._issue_tokens()
            for worker in self._workers.values():
                self._begin(worker)
            self._wait(self.ready, "not ready")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for client in self._clients:
            client.kill()
            client.wait()
            if client.stdin is not None:
                client.stdin.close()
        self._clients.clear()
        self._on_starter(lambda: asyncio.run(self._stop()))
        self._starter.shutdown()
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="starter")
        self.network.close()

    @property
    def children(self) -> list[ChildProcess]:
        return [*self._peers.values(), *self._workers.values()]

    # -- peers

    def process(self, peer: str) -> PeerProcess:
        """Raises ``KeyError``."""
        return self._peers[peer]

    def pids(self, peer: str) -> Pids:
        return pids_of(self._peers[peer])

    def signal(self, peer: str, part: Part, signum: Signals) -> None:
        signal_child(self._peers[peer], part, signum)

    def restart(self, peer: str) -> None:
        self._peers[peer].kill()
        self._begin(self._peers[peer])

    def environment(self, peer: str) -> dict[str, str]:
        return self._peers[peer].environment

    def options(self, peer: str) -> list[str]:
        return self._peers[peer].options

    def directory(self, peer: str) -> Path:
        return self.root / f"peer-{peer}" / "data"

    def log(self, peer: str) -> Path:
        return self._peers[peer].log_path

    # -- what the peers say

    @property
    def control(self) -> ControlClient:
        assert self._control is not None, "not started"
        return self._control

    def statuses(self) -> Mapping[str, Mapping[str, object]]:
        return {name: to_builtins(status) for name, status in self._statuses().items()}

    def leader(self) -> str | None:
        leaders = [(s.term, name) for name, s in self._statuses().items() if is_serving(s)]
        # A leader that was cut off may be stale: the higher term is right.
        return max(leaders)[1] if leaders else None

    def ready(self) -> bool:
        found = self._statuses().values()
        agreed = len({(status.term, status.leader) for status in found}) == 1
        return (
            agreed
            and len(found) == len(self.peers)
            and all(map(is_ready, found))
            and any(map(is_serving, found))
        )

    def _statuses(self) -> dict[str, Status]:
        """Of the peers that are not frozen and answer."""
        names = [name for name, peer in self._peers.items() if _runs(peer)]
        answers = self.control.of_all(self.control.status, names)
        return {n: answer for n, answer in answers.items() if not isinstance(answer, ControlError)}

    # -- workers

    def restart_worker(self, worker: str) -> None:
        self._workers[worker].kill()
        self._begin(self._workers[worker])

    # -- clients

    def spawn_client(
        self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        def start() -> subprocess.Popen[bytes]:
            with self.network.inside(CLIENT_HOST):
                return start_client(
                    arguments, log, {**self._client_environment(), **(environment or {})}
                )

        client = self._on_starter(start)
        self._clients.append(client)
        return client

    def _client_environment(self) -> dict[str, str]:
        return worker_environment(self.tls / DASK_CONFIG_FILE)

    # -- within

    def _init(self) -> None:
        command = [sys.executable, "-m", "ha_scheduler.cli.main", "init"]
        arguments = [f"--peers={self._listed}", f"--dir={self.tls}"]
        subprocess.run([*command, *arguments], check=True, capture_output=True)

    def _issue_tokens(self) -> None:
        """Beside the certificate of clients and workers, where they look for them."""
        for role in ("client", "worker"):
            issued = TokenAdmin(self.control).issue("chaos", role)
            file = token_file(role, client_files(self.tls).cert_file)
            write_file(file, issued.text.encode(), MODE_PRIVATE)

    def _new_peer(self, name: str) -> PeerProcess:
        arguments = [
            f"--peers={self._listed}",
            f"--data-dir={self.directory(name)}",
            f"--tls-dir={self.tls}",
            *self._options,
        ]
        environment = {**peer_environment(), VARIABLE: str(self.failpoints)}
        directory = self.directory(name).parent
        return PeerProcess(
            name,
            arguments,
            directory,
            environment,
            lambda peer: self.control.status(peer),
            PeerProcess.start,
        )

    def _new_worker(self, name: str) -> WorkerProcess:
        return WorkerProcess(
            name,
            self.address,
            self.root / f"worker-{name}",
            self._client_environment(),
            host=self.network.addresses[name],
            threads=1,
            memory_limit=MEMORY_LIMIT,
            nanny=True,
        )

    def _begin(self, child: ChildProcess) -> None:
        def start() -> None:
            with self.network.inside(child.name):
                child.start()

        self._on_starter(start)

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            begun = [child for child in self.children if child.returncode is not None]
            if begun:
                raise TargetFailed(self._story(f"{begun[0]!r} while the cell was starting"))
            if time.monotonic() > deadline:
                raise TargetFailed(self._story(f"{otherwise} after {START_TIMEOUT_S:.0f} s"))
            time.sleep(POLL_S)

    def _story(self, sentence: str) -> str:
        tails: Iterable[str] = (f"--- {child!r}\n{child.tail()}" for child in self.children)
        return "\n".join([sentence, *tails])

    async def _stop(self) -> None:
        await asyncio.gather(*(child.stop(STOP_TIMEOUT_S) for child in self.children))

    def _on_starter(self, call: Callable[[], _T]) -> _T:
        return self._starter.submit(call).result()


class _FromWithin(ControlClient):
    """Asks each peer from its own host."""

    def __init__(self, network: Network, cell: Cell, tls: TlsFiles, timeout_s: float) -> None:
        super().__init__(cell, tls, timeout_s)
        self._network = network

    def request(self, name: str, request: Request, wanted: type[_T]) -> _T:
        with self._network.inside(name):
            return super().request(name, request, wanted)


def _runs(child: ChildProcess) -> bool:
    """Whether it is there and not frozen."""
    pid = child.pid
    return pid is not None and psutil.Process(pid).status() != psutil.STATUS_STOPPED
