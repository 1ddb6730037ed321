"""How a new disk joins a running cell: it learns the cell's identity, then retries its request.

Guarantee: the disk's number and id are durable before the first request, and the request is retried
until the log makes this disk a member. It is idempotent: no crash of this peer or the leader loses
or doubles it.

Each request is a connection of its own to the peer port of another peer. Both sides show their
certificates, because only peer c may ask for a new disk of peer c.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from ha_scheduler.cell.peers import Cell, parse_peers
from ha_scheduler.errors import OperatorError
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer.members.roster import disk_of
from ha_scheduler.peer.network.links import Security
from ha_scheduler.peer.settings import Admission
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import ProtocolError
from ha_scheduler.protocol.control import (
    ANSWERS,
    Answer,
    CellRequest,
    Declined,
    FoundingList,
    JoinRequest,
    Request,
)
from ha_scheduler.protocol.introduction import Kind, RefusedError, call, introduce
from ha_scheduler.protocol.peer import PeerAddress

ASK_TIMEOUT_S = 3.0  # one request, TLS included
ASK_EVERY_S = 0.5
LEARN_ATTEMPTS_MAX = 40  # to learn the cell of a new disk from any peer

FAILURES = (OSError, TimeoutError, EOFError, ProtocolError, RefusedError)

logger = logging.getLogger(__name__)


class Asker:
    """Asks other peers as peer ``own``."""

    def __init__(self, own: str, security: Security) -> None:
        self._own = own
        self._security = security

    async def ask(self, to: PeerAddress, cell: str, request: Request) -> Answer:
        """The answer to one request. Raises ``OSError``, ``ProtocolError``, ``RefusedError``."""
        async with self.connected(to, cell) as ask:
            return await ask(request)

    @asynccontextmanager
    async def connected(
        self, to: PeerAddress, cell: str
    ) -> AsyncIterator[Callable[[Request], Awaitable[Answer]]]:
        """One connection for several requests, one after the other; ``ask`` has its errors."""
        async with asyncio.timeout(ASK_TIMEOUT_S):
            reader, writer = await self._security.connect(to)
            try:
                await call(reader, writer, introduce(Kind.CONTROL, cell, self._own))

                async def ask(request: Request) -> Answer:
                    writer.write(frames.pack(request))
                    body = await frames.read(reader.readexactly, frames.CONTROL_BYTES_MAX)
                    return ANSWERS.decode(body)

                yield ask
            finally:
                writer.transport.abort()

    async def learn_cell(self, listed: Cell) -> Cell:
        """The founding list of the cell of the ``listed`` peers. Raises ``OperatorError``."""
        others = [peer for peer in listed.peers if peer.name != self._own]
        reasons: dict[str, str] = {}
        for _ in range(LEARN_ATTEMPTS_MAX):
            for peer in others:
                try:
                    answer = await self.ask(peer, "", CellRequest())
                    if isinstance(answer, FoundingList):
                        return parse_peers(answer.peers, any_count=True)
                    reasons[peer.name] = f"peer {peer.name}: {answer}"
                except FAILURES as error:
                    reasons[peer.name] = f"peer {peer.name}: {error or type(error).__name__}"
            await asyncio.sleep(ASK_EVERY_S)
        raise OperatorError(
            f"None of the other peers said which cell this is ({'; '.join(reasons.values())}); "
            f"compare --peers with the cell, and see to it that it runs."
        )


class Joiner:
    """Retries the join request until this disk is a member."""

    def __init__(
        self,
        asker: Asker,
        own: PeerNamed,
        cell: str,
        admission: Admission | None,
        peers: Callable[[], Iterable[PeerAddress]],
        is_member: Callable[[], bool],
        *,
        learner: bool = False,
    ) -> None:
        self._asker = asker
        self._own = own
        self._cell = cell
        self._admission = admission
        self._peers = peers
        self._is_member = is_member
        self._learner = learner
        self._said = ""

    async def run(self) -> None:
        """Until this disk is a member. Raises ``OperatorError`` on a final refusal."""
        if self._is_member():
            return
        leader = ""
        while not self._is_member():
            for peer in self._order(leader):
                leader = await self._ask(peer)
                if self._is_member() or leader == peer.name:
                    break
            await asyncio.sleep(ASK_EVERY_S)
        logger.info("this disk is a member of the cell", extra={"action": "joined"})

    def _order(self, leader: str) -> list[PeerAddress]:
        others = [peer for peer in self._peers() if peer.name != self._own.name]
        return sorted(others, key=lambda peer: peer.name != leader)

    async def _ask(self, peer: PeerAddress) -> str:
        """The leader according to ``peer``: ``peer`` itself if it has accepted the request."""
        replacing = self._admission is Admission.REPLACE if self._admission is not None else None
        request = JoinRequest(disk_of(self._own), replacing, self._learner)
        try:
            answer = await self._asker.ask(peer, self._cell, request)
        except FAILURES as error:
            self._say(f"peer {peer.name}: {error or type(error).__name__}")
            return ""
        if not isinstance(answer, Declined):
            return peer.name
        self._say(answer.reason)
        if not answer.passing:
            raise OperatorError(f"The cell does not let this disk in: {answer.reason}.")
        return answer.leader or ""

    def _say(self, reason: str) -> None:
        if reason != self._said:
            self._said = reason
            logger.warning("not in the cell yet: %s", reason, extra={"action": "join_waits"})
