"""A cell whose peers, workers and client are on different hosts (network namespaces).

As an operator would do it: ``dask-ha-scheduler init``, then ``dask-ha-scheduler --peers …`` on each
host with default ports and times, ``dask worker ha://…`` with the Dask configuration that ``init``
made, and a client on a host of its own. Each process runs its host's network stack; the disk and
the clocks are one machine's.

Questions to a peer are asked from its own host, so a peer that is cut off answers them.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from distributed.security import Security
from msgspec import to_builtins

from chaos.wire.network import Network
from client_replay import Client
from ha_scheduler.cell.peers import DEFAULT_DASK_PORT, parse_peers
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.deploy.cell import is_ready, is_serving
from ha_scheduler.deploy.child import ChildProcess
from ha_scheduler.deploy.environment import peer_environment, worker_environment
from ha_scheduler.deploy.peer_process import PeerProcess
from ha_scheduler.deploy.worker_process import WorkerProcess
from ha_scheduler.errors import ControlError
from ha_scheduler.protocol.peer import Failover
from ha_scheduler.security.authority import client_files
from ha_scheduler.security.dask_config import DASK_CONFIG_FILE

PEERS = ("a", "b", "c")
WORKER_HOST = "workers"
CLIENT_HOST = "client"
READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 0.5
ASK_TIMEOUT_S = 2.0
POLL_S = 0.05
MEMORY_LIMIT = 1 << 30  # of a worker

_T = TypeVar("_T")
_ChildT = TypeVar("_ChildT", bound=ChildProcess)


class SpreadCell:
    """Three peers, ``n_workers`` workers and one client, ended with the ``with`` block."""

    def __init__(self, directory: Path, n_workers: int = 2, vip: str | None = None) -> None:
        """``vip``: a virtual address of the cell, by which workers and the client come, too."""
        self.network = Network([*PEERS, WORKER_HOST, CLIENT_HOST])
        addresses = self.network.addresses
        self.cell = parse_peers(",".join(f"{name}={addresses[name]}" for name in PEERS))
        self._directory = directory
        self._tls = directory / "tls"
        self._n_workers = n_workers
        self._vip = vip
        self.address = f"tls://{vip}:{DEFAULT_DASK_PORT}" if vip else self.cell.client_address
        self._children: list[ChildProcess] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> SpreadCell:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.network)
            self._init()
            self._control = ControlClient(self.cell, client_files(self._tls), ASK_TIMEOUT_S)
            stack.callback(self._stop)
            self.peers = {name: self._start_peer(name) for name in PEERS}
            self.workers = [self._start_worker(n) for n in range(self._n_workers)]
            self.wait_until_ready()
            self.client = stack.enter_context(self._connect())
            self.client.wait_for_workers(self._n_workers, timeout=READY_TIMEOUT_S)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- asking

    def status(self, name: str) -> dict[str, Any]:
        """What a peer says of itself. Raises ``ControlError``."""
        with self.network.inside(name):
            return _plain(self._control.status(name))

    def leader(self) -> PeerProcess:
        """Who leads and serves; waits for it."""
        return self._await(self._find_leader, "a peer leads")

    def wait_until_ready(self) -> dict[str, dict[str, Any]]:
        """Until all peers agree on a leader, and each has an engine that could lead or does.

        Returns what each said of itself then, by name.
        """
        return self._await(self._all_ready, "all peers have a leader and a ready engine")

    def history(self) -> list[dict[str, Any]]:
        """The changes of leader that anybody knows of, each as its longest report; oldest first."""
        best: dict[int, Failover] = {}
        for entries in self._of_all(self._control.history).values():
            for entry in entries:
                known = best.get(entry.term)
                if known is None or len(entry.phases) >= len(known.phases):
                    best[entry.term] = entry
        return [_plain(best[term]) for term in sorted(best)]

    def _of_all(self, ask: Callable[[str], _T]) -> dict[str, _T]:
        """The answers of the peers that are not frozen and answer."""

        def ask_there(name: str) -> _T:
            with self.network.inside(name):
                return ask(name)

        answers = {}
        names = [name for name, peer in self.peers.items() if not peer.paused]
        with ThreadPoolExecutor(len(names)) as pool:
            for name, answer in {name: pool.submit(ask_there, name) for name in names}.items():
                with contextlib.suppress(ControlError):
                    answers[name] = answer.result()
        return answers

    def _find_leader(self) -> PeerProcess | None:
        statuses = self._of_all(self._control.status)
        leaders = [(s.term, name) for name, s in statuses.items() if is_serving(s)]
        return self.peers[max(leaders)[1]] if leaders else None

    def _all_ready(self) -> dict[str, dict[str, Any]] | None:
        for child in self._children:
            if not child.alive:
                raise RuntimeError(f"{child!r} has ended:\n{child.tail()}")
        statuses = self._of_all(self._control.status)
        agreed = len({(s.term, s.leader) for s in statuses.values()}) == 1
        ready = len(statuses) == len(PEERS) and all(map(is_ready, statuses.values()))
        return {n: _plain(s) for n, s in statuses.items()} if agreed and ready else None

    def _await(self, question: Callable[[], _T | None], what: str) -> _T:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not (answer := question()):
            if time.monotonic() > deadline:
                tails = "\n".join(f"--- {child!r}\n{child.tail()}" for child in self._children)
                raise TimeoutError(f"after {READY_TIMEOUT_S:.0f} s still not: {what}\n{tails}")
            time.sleep(POLL_S)
        return answer

    # -- starting and stopping

    def _init(self) -> None:
        command = [sys.executable, "-m", "ha_scheduler.cli.main", "init"]
        arguments = [f"--peers={self._peers_option}", f"--dir={self._tls}"]
        subprocess.run([*command, *arguments], check=True, capture_output=True)

    @property
    def _peers_option(self) -> str:
        return ",".join(f"{peer.name}={peer.host}" for peer in self.cell.peers)

    def _start_peer(self, name: str) -> PeerProcess:
        directory = self._directory / f"peer-{name}"
        peer = PeerProcess(
            name,
            [
                f"--peers={self._peers_option}",
                f"--data-dir={directory / 'data'}",
                f"--tls-dir={self._tls}",
                *([f"--vip={self._vip}/24"] if self._vip else ()),
            ],
            directory,
            peer_environment(),
            ask=self.status,
            restart=PeerProcess.start,
        )
        return self._start(peer, name)

    def _start_worker(self, number: int) -> WorkerProcess:
        worker = WorkerProcess(
            str(number),
            self.address,
            self._directory / f"worker-{number}",
            worker_environment(self._tls / DASK_CONFIG_FILE),
            host=self.network.addresses[WORKER_HOST],
            threads=1,
            memory_limit=MEMORY_LIMIT,
            nanny=True,
        )
        return self._start(worker, WORKER_HOST)

    def _start(self, child: _ChildT, host: str) -> _ChildT:
        with self.network.inside(host):
            child.start()
        self._children.append(child)
        return child

    def _connect(self) -> Client:
        files = client_files(self._tls)
        security = Security(
            require_encryption=True,
            tls_ca_file=str(files.ca_file),
            tls_client_cert=str(files.cert_file),
            tls_client_key=str(files.key_file),
        )
        with self.network.inside(CLIENT_HOST):  # and so is the thread of its event loop
            return Client(self.address, security=security)

    def _stop(self) -> None:
        async def stop_all() -> None:
            await asyncio.gather(*(child.stop(STOP_TIMEOUT_S) for child in self._children))

        asyncio.run(stop_all())


def _plain(struct: Any) -> dict[str, Any]:
    return dict(to_builtins(struct))
