"""Goal: a new leader knows what earlier ones wrote down before it changes the cell.

Method: the real ``Reconfiguration`` with a real core and driver, over the twin of the store whose
writes complete when the test says so. Every other peer is connected, and was heard of a moment ago.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.ledger import encoding
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer.consensus.driver import Driver
from ha_scheduler.peer.consensus.lease import LeaderLease
from ha_scheduler.peer.members.reconfiguration import Reconfiguration
from ha_scheduler.peer.members.roster import Roster
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.raft.config import Config
from ha_scheduler.raft.messages import (
    Entry,
    EntryKind,
    Membership,
    Message,
    MessageKind,
    ServerState,
    SnapshotMeta,
)
from ha_scheduler.raft.node import RawNode
from ha_scheduler.raft.ready import Ready, SoftState
from ha_scheduler.storage.port import WriteBatch
from tests.twins.store import MemoryStore

CELL = parse_peers("a=10.0.0.1,b=10.0.0.2,c=10.0.0.3")
A, B, C = (CELL.peer_id(name) for name in "abc")


class Office:
    """Peer a, and around it what is not under test. It is the links and the driver's events."""

    def __init__(self) -> None:
        self._soon: deque[Callable[[], None]] = deque()
        self.store = MemoryStore(
            on_durable=lambda number, error: self.driver.on_durable(number, error),
            membership=Membership(tuple(sorted((A, B, C)))),
            deferred=True,
        )
        config = Config(
            peer_id=A,
            election_ticks=10,
            heartbeat_ticks=2,
            promotion_lag_ticks=12,
            disk_patience_ticks=60,
            pre_vote=False,
        )
        node = RawNode(config, self.store, random.Random(1))
        self.driver = Driver(
            node,
            self.store,
            self,
            LeaderLease(own_id=A, lease_s=8.0),
            1.0,
            call_soon=self._soon.append,
            clock=lambda: 0.0,
        )
        roster = Roster(CELL, CELL, PeerNamed(A, 10, "a", "10.0.0.1", 8785, 8786, False, ""))
        self.reconfiguration = Reconfiguration(
            roster, self.store, 10.0, lambda _: time.monotonic(), lambda: None, lambda: None
        )
        self.reconfiguration.connect(self.driver, self)  # type: ignore[arg-type]
        self.driver.muted = False

    def turn(self) -> None:
        while self._soon:
            self.some()

    def some(self) -> None:
        """One turn of the loop, and of the disk."""
        self._soon.popleft()()
        self.store.flush(None)

    def hear(self, kind: MessageKind, term: int, **fields: object) -> None:
        self.driver.step(Message(kind, A, B, term, **fields))  # type: ignore[arg-type]

    # -- the links

    def connected(self, peer: int) -> bool:
        return True

    def calls(self, peer: int) -> bool:
        return True

    def update(self, members: Mapping[int, PeerAddress]) -> None: ...

    # -- the driver's events

    def on_soft_state(self, state: SoftState) -> None: ...

    def on_send(self, message: Message) -> None: ...

    def on_sent(self) -> None: ...

    def batch(self, ready: Ready) -> WriteBatch:
        applied = ready.committed[-1].index if ready.committed else None
        return WriteBatch(
            ready.number,
            hard_state=ready.hard_state,
            entries=ready.entries,
            apply=ready.committed,
            applied_index=applied,
        )

    def on_contact(self) -> None: ...

    def on_read(self, context: bytes, index: int) -> None: ...

    def on_committed(self, entries: tuple[Entry, ...]) -> None:
        self.reconfiguration.on_committed(entries)

    def on_applied(self, index: int) -> None: ...

    def on_snapshot_installed(self, meta: SnapshotMeta) -> None: ...

    def on_fatal(self, error: BaseException) -> None:
        raise error


def a_disk_of_d(peer: int) -> PeerNamed:
    return PeerNamed(peer, peer * 10, "d", "10.0.0.4", 8785, 8786, False, "")


def test_a_new_leader_lets_nobody_in_before_it_knows_whom_the_last_one_let_in() -> None:
    office = Office()
    named = Entry(1, 1, EntryKind.NORMAL, encoding.encode(a_disk_of_d(4)))
    office.hear(MessageKind.APPEND, 1, entries=(named,), round=1, tick=1)
    office.turn()
    office.driver.node.campaign()
    office.driver.report_unreachable(B)  # makes the driver look
    office.turn()
    office.hear(MessageKind.VOTE_RESPONSE, 2)
    assert office.driver.node.role is ServerState.LEADER

    for known in (False, True):
        if known:  # the core knows that all is committed; the peer table does not yet
            office.some()
            last = office.driver.node.last_index
            office.hear(MessageKind.APPEND_RESPONSE, 2, index=last, round=2, tick=1)
            assert office.driver.node.commit == last
        for _ in range(2):
            refused = office.reconfiguration.join(a_disk_of_d(5), replacing=False)
            assert refused is not None
            assert refused.passing, refused.reason
            office.reconfiguration.tick()

    office.turn()
    refused = office.reconfiguration.join(a_disk_of_d(5), replacing=False)
    assert refused is not None
    assert "there is a peer d in the cell" in refused.reason
