"""Control: an operator's requests to one peer, and their answers.

Guarantee: each request gets exactly one answer, its own or ``Declined``. ``Transferred`` means that
another peer leads. A membership change is answered when the leader has begun it: its end is in the
status.

Any certificate of the cell allows the status and a transfer. A membership change, and to release
something from the quarantine, takes a peer's certificate, and a join as peer c that of peer c.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable

from ha_scheduler.errors import CertificateRefused
from ha_scheduler.ledger.records import CaseReleased
from ha_scheduler.peer.history import ENTRIES_MAX
from ha_scheduler.peer.inquest import quarantined
from ha_scheduler.peer.replica import Replica
from ha_scheduler.peer.report import Report
from ha_scheduler.peer.roster import named
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
    Quarantine,
    QuarantineRequest,
    ReleaseRequest,
    RemoveRequest,
    Request,
    StatusRequest,
    Taken,
    Transferred,
    TransferRequest,
)
from ha_scheduler.raft.errors import CallerError
from ha_scheduler.security.tls import Role, name_of, role_of

TRANSFER_TIMEOUT_S = 3.0  # a transfer takes two round trips; then something is wrong
TRANSFER_POLL_S = 0.005

logger = logging.getLogger(__name__)


class Control:
    """Answers control connections."""

    def __init__(self, replica: Replica, report: Report) -> None:
        self._replica = replica
        self._report = report

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one caller until it closes its connection."""
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
        replica = self._replica
        match request:
            case StatusRequest():
                return self._report.status()
            case HistoryRequest():
                return History(replica.history.tail(ENTRIES_MAX))
            case TransferRequest(to):
                return await self._transfer(to)
            case CellRequest():
                return FoundingList(replica.roster.founding.text)
            case QuarantineRequest():
                return Quarantine(tuple(map(quarantined, self._report.cases())))
            case ReleaseRequest(content):
                return self._change(shown, None, lambda: self._release(content))
            case JoinRequest(disk, replacing):
                join = replica.reconfiguration.join
                return self._change(shown, disk.name, lambda: join(named(disk), replacing))
            case RemoveRequest(peer):
                return self._change(shown, None, lambda: replica.reconfiguration.remove(peer))

    async def _transfer(self, to: str | None) -> Transferred | Declined:
        replica = self._replica
        if not replica.leading():
            return self._not_leading()
        reason = replica.transfer(to)
        if reason:
            return Declined(reason)
        term, loop = replica.term(), asyncio.get_running_loop()
        deadline = loop.time() + TRANSFER_TIMEOUT_S
        while loop.time() < deadline:
            leader = replica.leader_name()
            if replica.term() > term and leader is not None and not replica.leading():
                return Transferred(leader, replica.term())
            await asyncio.sleep(TRANSFER_POLL_S)
        return Declined("the transfer was not completed in time; ask for the status")

    def _change(
        self, shown: ssl.SSLObject | None, name: str | None, begin: Callable[[], Declined | None]
    ) -> Taken | Declined:
        """A change of the cell by who shows the certificate of peer ``name`` (None: of any)."""
        if reason := _not_peer(shown, name):
            return Declined(reason)
        if not self._replica.leading():
            return self._not_leading()
        return begin() or Taken()

    def _release(self, content: bytes) -> Declined | None:
        """Let a content be tried again; a refusal, or None once that is proposed."""
        if content not in {case.exposure.content for case in self._report.cases()}:
            return Declined(f"there is no {content.hex()} in the quarantine")
        try:
            self._replica.propose(CaseReleased(content))
        except CallerError as error:
            return Declined(f"{error}; ask again in a moment", passing=True)
        logger.warning("%s is released", content.hex(), extra={"action": "content_released"})
        return None

    def _not_leading(self) -> Declined:
        leader = self._replica.leader_name()
        reason = "this peer does not lead; " + (
            f"ask peer {leader}" if leader else "no leader is known, ask again in a moment"
        )
        return Declined(reason, passing=True, leader=leader)


def _not_peer(shown: ssl.SSLObject | None, name: str | None) -> str:
    """Why the certificate is not that of peer ``name`` (None: of any peer), or empty."""
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
