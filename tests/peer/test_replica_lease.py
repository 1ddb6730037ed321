"""A replica and its engine's lease: it is over before anything that ends leadership takes effect.

The replica, the core and the driver are real; links, disk and engine process are the test.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ha_scheduler import shared_lease
from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer.consensus.driver import Driver
from ha_scheduler.peer.consensus.lease import LeaderLease
from ha_scheduler.peer.engine.engine_rights import EngineRights, OverstepError
from ha_scheduler.peer.identity.certificates import Certificates
from ha_scheduler.peer.members.roster import Roster
from ha_scheduler.peer.network.watchers import Watchers
from ha_scheduler.peer.operators.report import Report
from ha_scheduler.peer.replica import Replica
from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.protocol.engine import Confirm, Confirmed
from ha_scheduler.raft.config import Config
from ha_scheduler.raft.messages import Membership, Message, MessageKind, ServerState
from ha_scheduler.raft.node import RawNode
from ha_scheduler.shared_lease import SharedLease
from ha_scheduler.storage.errors import StorageError
from ha_scheduler.vip.no_address import NoAddress
from tests.twins.store import MemoryStore

CELL = parse_peers("a=127.0.0.1,b=127.0.0.2,c=127.0.0.3")
A, B, C = (CELL.peer_id(name) for name in "abc")


class Desk:
    """Peer a; it is its links and its engine's process."""

    def __init__(self, directory: Path) -> None:
        self._soon: deque[Callable[[], None]] = deque()
        self.lease = SharedLease.create()
        self.left: list[tuple[Message, bool]] = []  # what left, and whether the lease held
        self.told: list[Any] = []  # what the engine was sent
        store = MemoryStore(
            on_durable=lambda number, error: self.driver.on_durable(number, error),
            membership=Membership(tuple(sorted((A, B, C)))),
            deferred=True,
        )
        self.store = store
        settings = PeerSettings(CELL, "a", directory)
        roster = Roster(CELL, CELL, PeerNamed(A, 10, "a", "127.0.0.1", 8785, 8786, False, ""))
        contact = LeaderLease(A, lease_s=8.0)
        self.replica = Replica(settings, roster, store, contact)
        config = Config(
            peer_id=A,
            election_ticks=10,
            heartbeat_ticks=2,
            promotion_lag_ticks=12,
            disk_patience_ticks=60,
            pre_vote=False,
        )
        node = RawNode(config, store, random.Random(1))
        self.driver = Driver(
            node, store, self.replica, contact, 1.0, call_soon=self._soon.append, clock=lambda: 0.0
        )
        nothing: Any = SimpleNamespace()
        report = Report(self.replica, store, isolation="", certificates=Certificates(settings))
        watchers = Watchers(report.watch_view)
        self.replica.connect(self.driver, self, nothing, nothing, watchers)  # type: ignore[arg-type]
        self.driver.muted = False
        self.replica.engine._engine = SimpleNamespace(  # type: ignore[assignment]
            alive=True,
            pid=1,
            lag_s=0.0,
            replayed=0,
            lease=self.lease,
            kill=lambda why: None,
            send=self.tell,
        )
        self.replica.engine._rights = EngineRights("tcp", settings.address)

    def turn(self) -> None:
        while self._soon:
            self._soon.popleft()()
            self.store.flush(None)

    def hear(self, kind: MessageKind, term: int = 1, source: int = B, **fields: Any) -> None:
        self.driver.step(Message(kind, A, source, term, **fields))
        self.turn()

    def lead(self) -> None:
        """Lead term 1, with an engine that was activated for it and a lease that holds."""
        self.driver.node.campaign()
        self.driver.report_unreachable(B)  # makes the driver look
        self.turn()
        self.hear(MessageKind.VOTE_RESPONSE)
        assert self.driver.node.role is ServerState.LEADER
        self.hear(MessageKind.APPEND_RESPONSE, index=self.driver.node.last_index, round=1, tick=0)
        self.replica.engine._term = 1
        assert self.replica.engine._rights is not None
        self.replica.engine._rights.activated(1)
        self.lease.extend(shared_lease.now() + 60)
        self.left.clear()

    def ask(self, number: int) -> None:
        self.replica.engine.on_message(self.replica.engine._engine, Confirm(number))  # type: ignore[arg-type]
        self.turn()

    # -- the links, and the engine's process

    def send(self, message: Message) -> None:
        self.left.append((message, self.lease.valid()))

    def tell(self, message: Any) -> None:
        self.told.append(message)

    def flush(self) -> None: ...

    def gossip(self, news: Any) -> None: ...

    def update(self, members: Any) -> None: ...

    def connected(self, peer: int) -> bool:
        return True

    def calls(self, peer: int) -> bool:
        return True


@asynccontextmanager
async def leading(directory: Path) -> AsyncIterator[Desk]:
    desk = Desk(directory)
    desk.lead()
    try:
        yield desk
    finally:
        failed = desk.replica.failed
        if failed.done():
            failed.exception()
        desk.lease.close()
        await asyncio.sleep(0)


async def test_the_order_to_campaign_leaves_when_the_lease_is_over(tmp_path: Path) -> None:
    async with leading(tmp_path) as desk:
        desk.driver.transfer_leadership(B)
        desk.turn()
        orders = [held for message, held in desk.left if message.kind is MessageKind.TIMEOUT_NOW]
        assert orders == [False]


class Address(NoAddress):
    """A virtual address that can, or cannot, be given up; what happened to it, in order."""

    def __init__(self, desk: Desk, *, leaves: bool = True) -> None:
        self.said: list[str] = []
        self._desk, self._leaves = desk, leaves

    def give_up(self) -> bool:
        orders = [m for m, _ in self._desk.left if m.kind is MessageKind.TIMEOUT_NOW]
        self.said.append("given up" if not orders else "too late")
        return self._leaves

    def deposed(self) -> None:
        self.said.append("deposed")


async def test_the_order_to_campaign_leaves_after_the_address_has_gone(tmp_path: Path) -> None:
    async with leading(tmp_path) as desk:
        desk.replica.vip = address = Address(desk)
        desk.driver.transfer_leadership(B)
        desk.turn()
        assert address.said == ["given up"]
        assert MessageKind.TIMEOUT_NOW in [message.kind for message, _ in desk.left]


async def test_nobody_is_told_to_campaign_while_the_address_cannot_be_given_up(
    tmp_path: Path,
) -> None:
    async with leading(tmp_path) as desk:
        desk.replica.vip = Address(desk, leaves=False)
        desk.driver.transfer_leadership(B)
        desk.turn()
        assert MessageKind.TIMEOUT_NOW not in [message.kind for message, _ in desk.left]


async def test_the_address_goes_with_leadership(tmp_path: Path) -> None:
    async with leading(tmp_path) as desk:
        desk.replica.vip = address = Address(desk)
        desk.hear(MessageKind.HEARTBEAT, term=2, source=C, round=1, tick=1)
        assert address.said == ["deposed"]


async def test_the_lease_is_over_when_the_store_has_failed(tmp_path: Path) -> None:
    async with leading(tmp_path) as desk:
        assert desk.lease.valid()
        desk.driver.on_durable(1, StorageError("the disk is gone"))
        assert not desk.lease.valid()
        assert isinstance(desk.replica.failed.exception(), StorageError)


async def test_the_lease_is_over_before_the_answer_to_a_newer_leader_leaves(tmp_path: Path) -> None:
    async with leading(tmp_path) as desk:
        desk.hear(MessageKind.HEARTBEAT, term=2, source=C, round=1, tick=1)
        assert desk.driver.node.role is ServerState.FOLLOWER
        assert [held for _, held in desk.left] == [False] * len(desk.left) != []


async def test_an_engine_hears_that_it_leads_when_a_quorum_has_answered_after_it_asked(
    tmp_path: Path,
) -> None:
    async with leading(tmp_path) as desk:
        desk.ask(7)
        asked = [m for m, _ in desk.left if m.kind is MessageKind.HEARTBEAT]
        assert {m.to for m in asked} == {B, C}
        assert desk.told == []
        (round_,) = {m.round for m in asked}
        desk.hear(MessageKind.HEARTBEAT_RESPONSE, round=round_ - 1, tick=0)
        assert desk.told == [], "an answer to an earlier question"
        desk.hear(MessageKind.HEARTBEAT_RESPONSE, round=round_, tick=0)
        assert desk.told == [Confirmed(7)]
        desk.ask(8)
        desk.hear(MessageKind.HEARTBEAT_RESPONSE, round=round_ + 1, tick=0)
        assert desk.told == [Confirmed(7), Confirmed(8)]


async def test_an_engine_of_a_leader_of_the_past_never_hears_that_it_leads(tmp_path: Path) -> None:
    async with leading(tmp_path) as desk:
        desk.ask(1)
        desk.hear(MessageKind.HEARTBEAT, term=2, source=C, round=1, tick=1)
        desk.hear(MessageKind.HEARTBEAT_RESPONSE, term=2, round=9, tick=0)
        desk.ask_again = desk.replica.on_confirm(1, 2)  # type: ignore[attr-defined]
        desk.turn()
        assert desk.told == []


def test_an_engine_asks_one_question_at_a_time_and_only_when_it_leads() -> None:
    rights = EngineRights("tcp", CELL.peer("a"))
    with pytest.raises(OverstepError, match="not activated"):
        rights.check_confirm(Confirm(1))
    rights.activated(1)
    rights.check_confirm(Confirm(1))
    with pytest.raises(OverstepError, match="before the answer"):
        rights.check_confirm(Confirm(2))
    rights.answered()
    rights.check_confirm(Confirm(2))
