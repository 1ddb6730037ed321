"""Control: an operator's requests to one peer, and their answers.

Guarantee: each request gets exactly one answer, its own or ``Declined``. ``Transferred`` means that
another peer leads. A membership change is answered when the leader has begun it: its end is in the
status.

Any certificate of the cell allows the status and a transfer, and to renew a token. A membership
change, to release something from the quarantine, and to issue or revoke tokens takes a peer's
certificate or an admin's token, and a join as peer c the certificate of peer c.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from ha_scheduler.ledger.records import CaseReleased
from ha_scheduler.peer.history import ENTRIES_MAX
from ha_scheduler.peer.inquest import quarantined
from ha_scheduler.peer.issuing import Issuer
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
    LoginRequest,
    Quarantine,
    QuarantineRequest,
    ReleaseRequest,
    RemoveRequest,
    RenewRequest,
    Request,
    RevokeRequest,
    RotateRequest,
    StatusRequest,
    Taken,
    TokenRequest,
    TokensRequest,
    Transferred,
    TransferRequest,
)
from ha_scheduler.raft.errors import CallerError
from ha_scheduler.security.identity import ANYBODY_LOCAL, Identity, TokenRole
from ha_scheduler.security.tls import Role

TRANSFER_TIMEOUT_S = 3.0  # a transfer takes two round trips; then something is wrong
TRANSFER_POLL_S = 0.005

logger = logging.getLogger(__name__)


class Control:
    """Answers control connections."""

    def __init__(self, replica: Replica, report: Report, issuer: Issuer) -> None:
        self._replica = replica
        self._report = report
        self._issuer = issuer

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: Identity
    ) -> None:
        """Answer one caller until it closes its connection."""
        while True:
            body = await frames.read(reader.readexactly, frames.REQUEST_BYTES_MAX)
            try:
                answer = await self.answer(REQUESTS.decode(body), caller)
            except ProtocolError as error:
                answer = Declined(str(error))
            writer.write(frames.pack(answer))
            await writer.drain()

    async def answer(self, request: Request, caller: Identity = ANYBODY_LOCAL) -> Answer:
        """The answer to one request."""
        replica = self._replica
        if reason := self._no_longer(caller):
            return Declined(reason)
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
                return self._change(caller, None, lambda: self._release(content))
            case JoinRequest(disk, replacing):
                join = replica.reconfiguration.join
                return self._change(caller, disk.name, lambda: join(named(disk), replacing))
            case RemoveRequest(peer):
                return self._change(caller, None, lambda: replica.reconfiguration.remove(peer))
            case _:
                return await self._tokens(request, caller)

    async def _tokens(
        self,
        request: TokenRequest
        | RenewRequest
        | LoginRequest
        | TokensRequest
        | RevokeRequest
        | RotateRequest,
        caller: Identity,
    ) -> Answer:
        issuer, by = self._issuer, caller.subject
        if self._replica.ring.ring is None:
            return Declined("this cell is in plaintext on loopback, where nobody needs a token")
        for_anybody = isinstance(request, RenewRequest | LoginRequest)
        if not for_anybody and (reason := _not_admin(caller, None)):
            return Declined(reason)
        if isinstance(request, TokensRequest):
            return issuer.listed()
        if not self._replica.leading():
            return self._not_leading()
        match request:
            case TokenRequest():
                return await issuer.issue(request, by)
            case RenewRequest(token):
                return await issuer.renew(token, caller.thumbprint)
            case LoginRequest(credential):
                return await issuer.login(credential)
            case RevokeRequest(token):
                return await issuer.revoke(token, by)
            case RotateRequest(drop_old):
                return await issuer.rotate(by, drop_old=drop_old)

    def _no_longer(self, caller: Identity) -> str:
        """Why who was let in is not any more, or empty."""
        ring = self._replica.ring.ring
        if ring is not None and caller.token_id in ring.revoked:
            return f"the token of {caller.subject} is revoked"
        if caller.expires < time.time():
            return f"the token of {caller.subject} has expired"
        return ""

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
        self, caller: Identity, name: str | None, begin: Callable[[], Declined | None]
    ) -> Taken | Declined:
        """A change of the cell by peer ``name`` (None: by any, or an admin)."""
        if reason := _not_admin(caller, name):
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


def _not_admin(caller: Identity, name: str | None) -> str:
    """Why the caller is not peer ``name`` (None: neither any peer nor an admin), or empty."""
    if caller == ANYBODY_LOCAL or (caller.role is Role.PEER and name in (None, caller.subject)):
        return ""
    if caller.role is TokenRole.ADMIN and name is None:
        return ""
    also, wanted = ("", f"peer {name}") if name is not None else ("an admin's token or ", "a peer")
    holder = f"{caller.role} {caller.subject}"
    return f"this takes {also}the certificate of {wanted}, not that of {holder}"
