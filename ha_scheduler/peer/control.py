"""Control: an operator's requests to one peer.

Guarantee: each request gets exactly one answer, its own or ``Declined``. A transfer is answered
when it is over: ``Transferred`` means that another peer leads. A join or removal is answered when
the leader has taken it on; its end is in the status.

Any certificate of the cell may ask for the status and for a transfer. A change of the membership
takes a peer's certificate, and joining as peer c that of peer c.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

from ha_scheduler.errors import CertificateRefused
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer.history import ENTRIES_MAX, LeaderHistory
from ha_scheduler.peer.roster import Roster, named
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import ProtocolError
from ha_scheduler.protocol.control import (
    REQUESTS,
    Answer,
    CellRequest,
    Declined,
    FoundingList,
    History,
    HistoryRequest,
    JoinRequest,
    RemoveRequest,
    Request,
    Status,
    StatusRequest,
    Taken,
    Transferred,
    TransferRequest,
)
from ha_scheduler.security.tls import Role, name_of, role_of

TRANSFER_TIMEOUT_S = 3.0  # a transfer takes two round trips; then something is wrong
TRANSFER_POLL_S = 0.005


class Controlled(Protocol):
    """What control asks of the daemon."""

    history: LeaderHistory
    roster: Roster

    def status(self) -> Status: ...

    def leader_name(self) -> str | None: ...

    def leading(self) -> bool: ...

    def term(self) -> int: ...

    def transfer(self, to: str | None) -> str | None:
        """Begin a transfer; the reason why not, or None."""

    def join(self, disk: PeerNamed, replacing: bool | None) -> Declined | None:
        """Let a new disk in; a refusal, or None."""

    def remove(self, name: str) -> Declined | None:
        """Begin to remove a peer; a refusal, or None."""


class Control:
    def __init__(self, daemon: Controlled) -> None:
        self._daemon = daemon

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one caller until it goes."""
        while True:
            body = await frames.read(reader.readexactly, frames.REQUEST_BYTES_MAX)
            shown = writer.get_extra_info("ssl_object")
            try:
                answer = await self.answer(REQUESTS.decode(body), shown)
            except ProtocolError as error:
                answer = Declined(str(error))
            writer.write(frames.pack(answer))
            await writer.drain()

    async def answer(self, request: Request, shown: ssl.SSLObject | None = None) -> Answer:
        """The answer to one request; ``shown``: the caller's certificate, None in plaintext."""
        daemon = self._daemon
        match request:
            case StatusRequest():
                return daemon.status()
            case HistoryRequest():
                return History(daemon.history.tail(ENTRIES_MAX))
            case TransferRequest(to):
                return await self._transfer(to)
            case CellRequest():
                return FoundingList(daemon.roster.founding.text)
            case JoinRequest(disk, replacing):
                reason = _not_peer(shown, disk.name)
                return self._change(reason, lambda: daemon.join(named(disk), replacing))
            case RemoveRequest(peer):
                return self._change(_not_peer(shown, None), lambda: daemon.remove(peer))

    async def _transfer(self, to: str | None) -> Transferred | Declined:
        daemon = self._daemon
        if not daemon.leading():
            return self._not_leading()
        reason = daemon.transfer(to)
        if reason:
            return Declined(reason)
        term, loop = daemon.term(), asyncio.get_running_loop()
        deadline = loop.time() + TRANSFER_TIMEOUT_S
        while loop.time() < deadline:
            leader = daemon.leader_name()
            if daemon.term() > term and leader is not None and not daemon.leading():
                return Transferred(leader, daemon.term())
            await asyncio.sleep(TRANSFER_POLL_S)
        return Declined("the transfer was not completed in time; ask for the status")

    def _change(self, reason: str, begin: Callable[[], Declined | None]) -> Taken | Declined:
        """``reason``: why the caller may not change the membership, or empty."""
        if reason:
            return Declined(reason)
        if not self._daemon.leading():
            return self._not_leading()
        return begin() or Taken()

    def _not_leading(self) -> Declined:
        leader = self._daemon.leader_name()
        reason = "this peer does not lead; " + (
            f"ask peer {leader}" if leader else "no leader is known, ask again in a moment"
        )
        return Declined(reason, passing=True, leader=leader)


def _not_peer(shown: ssl.SSLObject | None, name: str | None) -> str:
    """Why the caller lacks the certificate of peer ``name``, or of any peer."""
    if shown is None:
        return ""  # plaintext on loopback, as the operator asked for
    try:
        role, holder = role_of(shown), name_of(shown)
    except CertificateRefused as error:
        return str(error)
    if role is not Role.PEER or name not in (None, holder):
        wanted = f"peer {name}" if name is not None else "a peer"
        return f"this takes the certificate of {wanted}, not that of {role} {holder}"
    return ""
