"""The peers of a local cell as processes: certificates, ports, start, leader.

Knows nothing of workers and imports no ``distributed``; ``local.py`` puts the cluster around it.
"""

from __future__ import annotations

import asyncio
import json
import string
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec import to_builtins

from ha_scheduler.cell.address import join_address
from ha_scheduler.cell.peers import Cell
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.deploy.child import ChildProcess
from ha_scheduler.deploy.environment import peer_environment
from ha_scheduler.deploy.peer_process import PeerProcess
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.errors import ControlError
from ha_scheduler.peer.operators.history import ENTRIES_MAX, LeaderHistory
from ha_scheduler.protocol.control import Status, Transferred, TransferRequest
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.security.authority import client_files, ensure_certificates, peer_files
from ha_scheduler.security.dask_config import DASK_CONFIG_FILE

ASK_TIMEOUT_S = 2.0  # a peer that is starting may be slow
POLL_S = 0.05  # between two requests to all peers, each a TLS connection
LINES_IN_ERROR = 30  # of each log
STOP_TIMEOUT_S = 0.5  # then SIGKILL: a leader waits for a successor, and here all stop at once
PORTS_FILE = "ports.json"
PORTS_OF_A_PEER = 3  # peer, Dask, dashboard

_T = TypeVar("_T")


class LocalCellError(Exception):
    """Operator: the cell did not start; the text has the last lines of every log."""


class LocalCell:
    """``n_peers`` peer daemons on ``host``, each with a data directory under ``directory``."""

    def __init__(
        self,
        directory: Path,
        n_peers: int,
        *,
        host: str,
        tls: bool,
        dashboard: bool,
        options: Sequence[str],
        restart: Callable[[PeerProcess], Any],
    ) -> None:
        self.directory = directory
        self.host = host
        names = string.ascii_lowercase[:n_peers]
        ports = iter(_ports(directory / PORTS_FILE, host, n_peers))
        self.cell = Cell(tuple(PeerAddress(n, host, next(ports), next(ports)) for n in names))
        self.dashboard_ports = {name: next(ports) for name in names} if dashboard else {}
        self.certificates = directory / "certificates" if tls else None
        if self.certificates is not None:
            ensure_certificates(self.certificates, self.cell)
        self.control = ControlClient(self.cell, self._admin_tls, ASK_TIMEOUT_S)
        self.peers = [
            PeerProcess(
                peer.name,
                [*self._arguments(peer), *options],
                directory / f"peer-{peer.name}",
                peer_environment(),
                ask=self.control.status,
                restart=restart,
            )
            for peer in self.cell.peers
        ]

    @property
    def client_tls(self) -> TlsFiles | None:
        """The files of clients and workers; None in plaintext."""
        return client_files(self.certificates) if self.certificates is not None else None

    @property
    def _admin_tls(self) -> TlsFiles | None:
        """The files of a peer, whose certificate is an admin's."""
        if self.certificates is None:
            return None
        return peer_files(self.certificates, self.cell.names[0])

    @property
    def dask_config(self) -> Path | None:
        """The Dask configuration for clients and workers; None in plaintext."""
        return self.certificates / DASK_CONFIG_FILE if self.certificates is not None else None

    def dashboard_url(self, name: str) -> str | None:
        """The dashboard of a peer's engine; only the leader's shows tasks."""
        if name not in self.dashboard_ports:
            return None
        scheme = "https" if self.certificates is not None else "http"
        return f"{scheme}://{join_address(self.host, self.dashboard_ports[name])}/status"

    def peer(self, name: str) -> PeerProcess:
        """The peer called ``name``. Raises ``KeyError``."""
        for peer in self.peers:
            if peer.name == name:
                return peer
        raise KeyError(name)

    # -- control requests

    def leader(self) -> PeerProcess | None:
        """The leader whose engine serves, or None at this moment. Blocks."""
        leaders = [
            (status.term, name)
            for name, status in self._of_all(self.control.status).items()
            if is_serving(status)
        ]
        # A leader that was frozen may be stale: the higher term is right.
        return self.peer(max(leaders)[1]) if leaders else None

    def transfer(self, leader: str, to: str | None) -> None:
        """Let ``leader`` transfer leadership to ``to``. Blocks; raises ``ControlError``."""
        self.control.request(leader, TransferRequest(to), Transferred)

    def has_successor(self, leader: str, to: str | None) -> bool:
        """Whether ``leader`` could transfer leadership to ``to`` (None: to any peer). Blocks."""
        if to is not None and to not in self.cell.names:
            return True  # nothing to wait for: the leader refuses
        members = self.control.status(leader).members
        ready = {member.name for member in members if member.engine_ready} - {leader}
        return bool(ready if to is None else to in ready)

    def history(self) -> list[dict[str, Any]]:
        """The failovers that the cell remembers, oldest first. Blocks."""
        known = LeaderHistory()
        for entries in self._of_all(self.control.history).values():
            known.merge(entries)
        return [to_builtins(entry) for entry in known.tail(ENTRIES_MAX)]

    def _of_all(self, ask: Callable[[str], _T]) -> dict[str, _T]:
        """The answers of peers that are not frozen."""
        names = [peer.name for peer in self.peers if peer.alive and not peer.paused]
        answers = self.control.of_all(ask, names)
        return {n: answer for n, answer in answers.items() if not isinstance(answer, ControlError)}

    # -- starting and stopping

    async def start(self, timeout_s: float) -> None:
        """Start every peer and wait until one leads and serves. Raises ``LocalCellError``."""
        for peer in self.peers:
            peer.start()
        deadline = time.monotonic() + timeout_s
        while await asyncio.to_thread(self.leader) is None:
            self.check(self.peers)
            if time.monotonic() > deadline:
                raise self.failure(f"no peer leads after {timeout_s:g} s", self.peers)
            await asyncio.sleep(POLL_S)

    async def restart(self, peer: PeerProcess, timeout_s: float) -> None:
        """Start a peer again, and wait until its engine has caught up."""
        await asyncio.to_thread(peer.kill)
        peer.start()
        deadline = time.monotonic() + timeout_s
        while not await asyncio.to_thread(self._is_ready, peer):
            self.check([peer])
            if time.monotonic() > deadline:
                raise self.failure(f"peer {peer.name} is not back after {timeout_s:g} s", [peer])
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """End every peer."""
        await asyncio.gather(*(peer.stop(STOP_TIMEOUT_S) for peer in self.peers))

    def check(self, children: Sequence[ChildProcess]) -> None:
        """Raise ``LocalCellError`` if one of the children has ended."""
        for child in children:
            if not child.alive:
                raise self.failure(f"{child!r} while the cell was starting", children)

    def failure(self, sentence: str, children: Sequence[ChildProcess]) -> LocalCellError:
        """An error that carries the last lines of what each child printed."""
        tails = []
        for child in children:
            lines = child.tail().splitlines()[-LINES_IN_ERROR:] or ["(empty)"]
            tails += [f"--- {child.log_path}", *lines]
        return LocalCellError("\n".join([sentence, *tails]))

    def _is_ready(self, peer: PeerProcess) -> bool:
        try:
            return is_ready(self.control.status(peer.name))
        except ControlError:
            return False

    def _arguments(self, peer: PeerAddress) -> list[str]:
        arguments = [
            f"--peers={self.cell.text}",
            f"--name={peer.name}",
            f"--data-dir={self.directory / f'peer-{peer.name}' / 'data'}",
        ]
        if peer.name in self.dashboard_ports:
            address = join_address(self.host, self.dashboard_ports[peer.name])
            arguments.append(f"--dashboard-address={address}")
        else:
            arguments.append("--no-dashboard")
        if self.certificates is None:
            return [*arguments, "--protocol=tcp"]
        files = peer_files(self.certificates, peer.name)
        return [
            *arguments,
            f"--tls-ca-file={files.ca_file}",
            f"--tls-cert={files.cert_file}",
            f"--tls-key={files.key_file}",
        ]


def _ports(file: Path, host: str, n_peers: int) -> list[int]:
    """The former ports of the cell in this directory, which its identity contains, or free ones."""
    count = PORTS_OF_A_PEER * n_peers
    if not file.exists():
        ports = free_ports(host, count)
        file.write_text(json.dumps(ports))
        return ports
    ports = [int(port) for port in json.loads(file.read_text())]
    if len(ports) != count:
        raise LocalCellError(
            f"{file.parent} holds a cell of {len(ports) // PORTS_OF_A_PEER} peers, not {n_peers}; "
            f"use the same n_peers, or another data_dir."
        )
    return ports


def is_serving(status: Status) -> bool:
    """Whether a peer with this status leads, and its engine serves."""
    return status.role == "leader" and status.serving


def is_ready(status: Status) -> bool:
    """Whether a peer with this status knows its leader, and its engine is ready or active."""
    return status.leader is not None and status.engine.state in ("ready", "active")
