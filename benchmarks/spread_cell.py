"""The cell on hosts of its own (``chaos/targets/namespaces.py``), with a client in this process.

Questions to a peer are asked from its own host, so a peer that is cut off answers them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from distributed.security import Security
from msgspec import to_builtins

from chaos.targets.namespaces import CLIENT_HOST, Namespaces
from client_replay import Client
from ha_scheduler.deploy.peer_process import PeerProcess
from ha_scheduler.errors import ControlError
from ha_scheduler.protocol.peer import Failover
from ha_scheduler.security.authority import client_files

PEERS = ("a", "b", "c")
READY_TIMEOUT_S = 120.0
POLL_S = 0.05

_T = TypeVar("_T")


class SpreadCell:
    """Three peers, ``n_workers`` workers and one client, ended with the ``with`` block."""

    def __init__(self, directory: Path, n_workers: int = 2, vip: bool = False) -> None:
        """``vip``: workers and the client come by a virtual address of the cell."""
        self.target = Namespaces(directory, len(PEERS), n_workers, vip=vip)
        self.network = self.target.network
        self.address = self.target.address
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> SpreadCell:
        with contextlib.ExitStack() as stack:
            stack.callback(self.target.stop)
            self.target.start()
            self.peers = {name: self.target.process(name) for name in PEERS}
            self.client = stack.enter_context(self._connect())
            self.client.wait_for_workers(len(self.target.workers), timeout=READY_TIMEOUT_S)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def status(self, name: str) -> dict[str, Any]:
        """What a peer says of itself. Raises ``ControlError``."""
        return _plain(self.target.control.status(name))

    def leader(self) -> PeerProcess:
        """Who leads and serves; waits for it."""
        return self.peers[self._await(self.target.leader, "a peer leads")]

    def wait_until_ready(self) -> dict[str, dict[str, Any]]:
        """Until all peers agree on a leader, and each has an engine that could lead or does.

        Returns what each said of itself then, by name.
        """
        return self._await(self._all_ready, "all peers have a leader and a ready engine")

    def history(self) -> list[dict[str, Any]]:
        """The changes of leader that anybody knows of, each as its longest report; oldest first."""
        best: dict[int, Failover] = {}
        control = self.target.control
        names = [name for name, peer in self.peers.items() if not peer.paused]
        for entries in control.of_all(control.history, names).values():
            for entry in () if isinstance(entries, ControlError) else entries:
                known = best.get(entry.term)
                if known is None or len(entry.phases) >= len(known.phases):
                    best[entry.term] = entry
        return [_plain(best[term]) for term in sorted(best)]

    def _all_ready(self) -> dict[str, dict[str, Any]] | None:
        for child in self.target.children:
            if not child.alive:
                raise RuntimeError(f"{child!r} has ended:\n{child.tail()}")
        if not self.target.ready():
            return None
        with contextlib.suppress(ControlError):
            return {name: self.status(name) for name in PEERS}
        return None

    def _await(self, question: Callable[[], _T | None], what: str) -> _T:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not (answer := question()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {READY_TIMEOUT_S:.0f} s still not: {what}")
            time.sleep(POLL_S)
        return answer

    def _connect(self) -> Client:
        files = client_files(self.target.tls)
        security = Security(
            require_encryption=True,
            tls_ca_file=str(files.ca_file),
            tls_client_cert=str(files.cert_file),
            tls_client_key=str(files.key_file),
        )
        with self.network.inside(CLIENT_HOST):  # and so is the thread of its event loop
            return Client(self.address, security=security)


def _plain(struct: Any) -> dict[str, Any]:
    return dict(to_builtins(struct))
