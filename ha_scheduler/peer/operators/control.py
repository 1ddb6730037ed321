"""Control: an operator's requests to one peer, and their answers.

Guarantee: each request gets exactly one answer, its own or ``Declined``. ``Transferred`` means that
another peer leads. A membership change is answered when the leader has begun it: its end is in the
status.

Who may ask for what stands in ``security/permissions.py``; a join as peer c takes the certificate
of peer c. What changes something is in the audit log, with its outcome, and so is who was refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from ha_scheduler.audit.chain import Event
from ha_scheduler.audit.log import AuditLog
from ha_scheduler.ledger.records import CaseReleased, MaintenanceSet
from ha_scheduler.peer.consensus.reads import NotConfirmed
from ha_scheduler.peer.engine.inquest import quarantined
from ha_scheduler.peer.identity.issuing import Issuer
from ha_scheduler.peer.members.roster import named
from ha_scheduler.peer.operators.copies import Copies
from ha_scheduler.peer.operators.history import ENTRIES_MAX
from ha_scheduler.peer.operators.report import Report
from ha_scheduler.peer.replica import Replica
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import ProtocolError, tag_of
from ha_scheduler.protocol.control import (
    REQUESTS,
    Answer,
    CellRequest,
    Clock,
    ClockRequest,
    Declined,
    Examined,
    ExamineRequest,
    FoundingList,
    History,
    HistoryRequest,
    JoinRequest,
    LoginRequest,
    LogRequest,
    MaintainRequest,
    MayJoinRequest,
    PromoteRequest,
    Quarantine,
    QuarantineRequest,
    ReleaseRequest,
    RemoveRequest,
    RenewRequest,
    Request,
    RevokeRequest,
    RotateRequest,
    SnapshotRequest,
    StatusRequest,
    Taken,
    TokenRequest,
    TokensRequest,
    Transferred,
    TransferRequest,
)
from ha_scheduler.raft.errors import CallerError
from ha_scheduler.security.identity import ANYBODY_LOCAL, Identity
from ha_scheduler.security.permissions import Operation, Surface, describe, refusal
from ha_scheduler.security.tls import Role

_EVENTS: dict[type[Request], Event] = {
    TransferRequest: Event.FORCED,
    ReleaseRequest: Event.FORCED,
    JoinRequest: Event.MEMBERSHIP,
    PromoteRequest: Event.MEMBERSHIP,
    RemoveRequest: Event.MEMBERSHIP,
    MaintainRequest: Event.FORCED,
    TokenRequest: Event.TOKEN,
    RenewRequest: Event.TOKEN,
    LoginRequest: Event.TOKEN,
    RevokeRequest: Event.TOKEN,
    RotateRequest: Event.KEY,
}
TRANSFER_TIMEOUT_S = 3.0  # a transfer takes two round trips; then something is wrong
TRANSFER_POLL_S = 0.005

logger = logging.getLogger(__name__)


class Control:
    """Answers control connections."""

    def __init__(
        self,
        replica: Replica,
        report: Report,
        issuer: Issuer,
        audit: AuditLog,
        copies: Copies,
        examine: Callable[[], Awaitable[Examined]],
    ) -> None:
        self._replica = replica
        self._report = report
        self._issuer = issuer
        self._audit = audit
        self._copies = copies
        self._examine = examine

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: Identity
    ) -> None:
        """Answer one caller until it closes its connection."""
        while True:
            body = await frames.read(reader.readexactly, frames.REQUEST_BYTES_MAX)
            try:
                request = REQUESTS.decode(body)
                if isinstance(request, SnapshotRequest) and not self._refusal(request, caller):
                    outcome = await self._copies.send(writer)
                    self._audit.record(Event.FORCED, caller, what="snapshot", outcome=outcome)
                    continue
                answer = await self.answer(request, caller)
            except ProtocolError as error:
                answer = Declined(str(error))
            writer.write(frames.pack(answer))
            await writer.drain()

    async def answer(self, request: Request, caller: Identity = ANYBODY_LOCAL) -> Answer:
        """The answer to one request."""
        if reason := self._refusal(request, caller):
            self._audit.record(Event.REFUSED, caller, what=tag_of(type(request)), why=reason)
            return Declined(reason)
        answer = await self._answer(request, caller)
        self._note(caller, request, answer)
        return answer

    def _refusal(self, request: Request, caller: Identity) -> str | None:
        operation = Operation(Surface.CONTROL, tag_of(type(request)))
        reason = self._no_longer(caller) or refusal(caller, operation)
        if not reason and isinstance(request, JoinRequest):
            reason = _not_of_disk(caller, request.disk.name)
        return reason

    def _note(self, caller: Identity, request: Request, answer: Answer) -> None:
        """What looks is one of many; what changes something is written each time."""
        event, what = _EVENTS.get(type(request), Event.AUTHENTICATED), tag_of(type(request))
        if event is Event.AUTHENTICATED:
            self._audit.record(event, caller, what=what)
            return
        outcome = answer.reason if isinstance(answer, Declined) else "done"
        self._audit.record(event, caller, what=what, of=_object_of(request), outcome=outcome)

    async def _answer(self, request: Request, caller: Identity) -> Answer:
        replica = self._replica
        match request:
            case StatusRequest(linearizable):
                return await self._status(linearizable=linearizable)
            case HistoryRequest():
                return History(replica.history.tail(ENTRIES_MAX))
            case TransferRequest(to):
                return await self._transfer(to)
            case CellRequest():
                return FoundingList(replica.roster.founding.text)
            case SnapshotRequest():
                return Declined("a copy is a stream of its own")
            case ClockRequest():
                return Clock(time.time())
            case ExamineRequest():
                return await self._examine()
            case LogRequest():
                return self._copies.lines(request)
            case QuarantineRequest():
                return Quarantine(tuple(map(quarantined, self._report.cases())))
            case ReleaseRequest(content):
                return self._change(lambda: self._release(content))
            case JoinRequest(disk, replacing, learner):
                join, row = replica.reconfiguration.join, replace(named(disk), learner=learner)
                return self._change(lambda: join(row, replacing))
            case MayJoinRequest(disk, replacing):
                may_join = replica.reconfiguration.may_join
                return self._change(lambda: may_join(named(disk), replacing))
            case PromoteRequest(peer):
                return self._change(lambda: replica.reconfiguration.promote(peer))
            case MaintainRequest():
                return self._maintain(request, caller.subject)
            case RemoveRequest(peer):
                return self._change(lambda: replica.reconfiguration.remove(peer))
            case _:
                return await self._tokens(request, caller)

    async def _status(self, *, linearizable: bool) -> Answer:
        if linearizable:
            try:
                await self._replica.current()
            except NotConfirmed as error:
                return Declined(str(error), passing=True)
        return self._report.status()

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

    def _change(self, begin: Callable[[], Declined | None]) -> Taken | Declined:
        """A change of the cell."""
        if not self._replica.leading():
            return self._not_leading()
        return begin() or Taken()

    def _maintain(self, request: MaintainRequest, by: str) -> Taken | Declined:
        replica = self._replica
        if not request.active and replica.leader_name() is None:
            replica.maintenance.overrule(request.peer)
            return Taken()
        known = [peer.name for peer in replica.roster.current()]
        order = replica.maintenance.order
        return self._change(lambda: self._log(order(request, by, known, replica.fit_names())))

    def _log(self, record: MaintenanceSet | Declined) -> Declined | None:
        """Propose it; a refusal, or None once that is done."""
        if isinstance(record, Declined):
            return record
        try:
            self._replica.propose(record)
        except CallerError as error:
            return Declined(f"{error}; ask again in a moment", passing=True)
        return None

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


def _not_of_disk(caller: Identity, name: str) -> str | None:
    """Why ``caller`` may not join as peer ``name``; None if it may."""
    if caller is ANYBODY_LOCAL or (caller.role is Role.PEER and caller.subject == name):
        return None
    return f"to join takes the certificate of peer {name}, and this is {describe(caller)}"


def _object_of(request: Request) -> str:
    """Never a token: of one that is revoked its id, of one that is issued whose it is."""
    match request:
        case JoinRequest(disk):
            return disk.name
        case RemoveRequest(peer) | PromoteRequest(peer):
            return peer
        case MaintainRequest(peer, active):
            return f"{peer or 'failover'} {'ordered' if active else 'lifted'}"
        case TransferRequest(to):
            return to or "any peer"
        case ReleaseRequest(content):
            return content.hex()
        case TokenRequest(role=role, subject=subject):
            return f"{role} {subject}"
        case RevokeRequest(token):
            return token.hex()
    return ""
