"""A small cell in memory for tests that follow the thesis: perfect network unless told otherwise.

Every call into a node is followed by `check_invariants`. Nothing happens by itself: a test calls
`settle` to carry out every Ready and deliver every message until nothing is left to do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from ha_scheduler.peer.consensus.lease import MARGIN_TICKS, LeaderLease
from ha_scheduler.raft.config import Config
from ha_scheduler.raft.membership import ChangeKind, MembershipChange, decode_membership
from ha_scheduler.raft.messages import (
    Entry,
    EntryKind,
    HardState,
    Membership,
    Message,
    MessageKind,
    ServerState,
)
from ha_scheduler.raft.node import RawNode
from ha_scheduler.raft.ready import ReadState, Ready
from ha_scheduler.raft.wire import message_from_wire, message_to_wire
from tests.twins.log import MemoryLog

Filter = Callable[[Message], bool]

TICKS = {
    "election_ticks": 12,
    "heartbeat_ticks": 2,
    "promotion_lag_ticks": 12,
    "disk_patience_ticks": 60,
}


class Peer:
    """A node with its storage, what it has applied, and its lease, whose clock shows ticks."""

    def __init__(
        self,
        peer_id: int,
        log: MemoryLog,
        seed: int = 0,
        rng: random.Random | None = None,
        **settings: object,
    ) -> None:
        self.id = peer_id
        self.log = log
        self.settings = settings
        self.applied: list[Entry] = []
        self.reads: list[ReadState] = []
        self.readies: list[Ready] = []
        self._rng = rng or random.Random(seed * 1000 + peer_id)
        self.node = self._start()

    def _start(self) -> RawNode:
        config = Config(peer_id=self.id, **{**TICKS, **self.settings})  # type: ignore[arg-type]
        self.now = 1
        self.lease = LeaderLease(self.id, config.election_ticks - MARGIN_TICKS)
        return RawNode(config, self.log, self._rng, applied=self.log.applied)

    def restart(self) -> None:
        self.node = self._start()

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += 1
            self.node.tick()

    def step(self, message: Message) -> None:
        """A message arrives, through its encoding."""
        self.node.step(message_from_wire(message_to_wire(message)))
        if self.node.role is ServerState.LEADER:
            self.lease.answered(message)

    def take(self) -> Ready:
        """One Ready, whose messages leave at once."""
        ready = self.node.ready()
        self.check_early_messages(ready)
        if self.node.role is ServerState.LEADER and self.lease.term != self.node.term:
            self.lease.begin(self.node.term)
        self.leave(ready.messages)
        self.reads.extend(ready.read_states)
        return ready

    def leave(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.lease.sent(message, self.now)

    @property
    def lease_valid(self) -> bool:
        """Whether this peer leads, and no other can have been elected yet."""
        if not self.settings.get("check_quorum", True):
            return False  # nobody has promised anything
        leads = self.node.role is ServerState.LEADER and self.lease.term == self.node.term
        return leads and self.lease.certain_until(self.node.membership.voters, self.now) > self.now

    def persist(self, ready: Ready) -> None:
        """One transaction."""
        if ready.snapshot is not None:
            self.log.install_snapshot(ready.snapshot)
        if ready.hard_state is not None:
            self.log.set_hard_state(ready.hard_state)
        self.log.append(ready.entries)

    def record(self, ready: Ready) -> None:
        """Apply the committed entries; part of the same transaction."""
        for entry in ready.committed:
            membership = self.log.initial_state()[1]
            if entry.kind is EntryKind.CONF_CHANGE:
                membership = decode_membership(entry.data)[0]
            self.applied.append(entry)
            self.log.record_applied(entry.index, membership)

    def apply(self, ready: Ready) -> None:
        self.record(ready)
        if ready.committed:
            self.node.applied_to(ready.committed[-1].index)

    def check_early_messages(self, ready: Ready) -> None:
        """What leaves before the disk is done must not speak of a term that the disk lacks."""
        durable_term = self.log.initial_state()[0].term
        for message in ready.messages:
            assert message.kind is MessageKind.PRE_VOTE or message.term <= durable_term, message

    def process_ready(self) -> list[Message]:
        """Carry out one Ready as a driver without concurrency does. Returns what leaves."""
        ready = self.take()
        self.readies.append(ready)
        self.persist(ready)
        self.node.persisted(ready.number)
        self.leave(ready.messages_after_persist)
        self.apply(ready)
        self.node.check_invariants()
        return [*ready.messages, *ready.messages_after_persist]


class Cell:
    """Peers and the messages between them."""

    def __init__(self, count: int = 3, *, voters: Iterable[int] | None = None, **settings: object):
        members = tuple(voters) if voters is not None else tuple(range(1, count + 1))
        self.settings = settings
        self.peers: dict[int, Peer] = {}
        for peer_id in range(1, count + 1):
            self.add_peer(peer_id, Membership(members))
        self.wire: list[Message] = []
        self.dropped: list[Message] = []
        self.drop: Filter = lambda message: False

    def add_peer(self, peer_id: int, membership: Membership, log: MemoryLog | None = None) -> Peer:
        peer = Peer(peer_id, log or MemoryLog(membership), **self.settings)
        self.peers[peer_id] = peer
        return peer

    def __getitem__(self, peer_id: int) -> RawNode:
        return self.peers[peer_id].node

    def isolate(self, *peer_ids: int) -> None:
        """No message to or from these peers."""
        self.drop = lambda m: m.to in peer_ids or m.source in peer_ids

    def heal(self) -> None:
        self.drop = lambda message: False

    def collect(self) -> bool:
        """Carry out every Ready there is. Returns whether there was any."""
        busy = False
        for peer in self.peers.values():
            while peer.node.has_ready():
                busy = True
                self.wire.extend(peer.process_ready())
        return busy

    def deliver(self) -> bool:
        """Deliver what is on the wire, through its encoding."""
        batch, self.wire = self.wire, []
        for message in batch:
            if self.drop(message) or message.to not in self.peers:
                self.dropped.append(message)
                continue
            self.peers[message.to].step(message)
            self[message.to].check_invariants()
        return bool(batch)

    def settle(self, limit: int = 1000) -> None:
        for _ in range(limit):
            busy = self.collect()
            if not self.deliver() and not busy:
                return
        raise AssertionError("the cell does not come to rest")

    def tick(self, count: int = 1, *peer_ids: int) -> None:
        """Time passes, messages flow after each tick."""
        for _ in range(count):
            for peer_id in peer_ids or tuple(self.peers):
                self.peers[peer_id].tick()
                self[peer_id].check_invariants()
            self.settle()

    def elect(self, peer_id: int) -> RawNode:
        node = self[peer_id]
        node.campaign()
        self.settle()
        assert node.role is ServerState.LEADER, f"{peer_id} is {node.role} in term {node.term}"
        return node

    def join(self, peer_id: int) -> None:
        """A new peer, as the learner of the only leader, that has caught up."""
        (leader,) = self.leaders()
        self[leader].propose_membership(MembershipChange(ChangeKind.ADD_LEARNER, peer_id))
        self.add_peer(peer_id, Membership(()))
        self.tick(4)

    def leaders(self) -> list[int]:
        return [p for p, peer in self.peers.items() if peer.node.role is ServerState.LEADER]

    def data(self, peer_id: int) -> list[bytes]:
        """What a peer has applied, without no-ops and configuration."""
        applied = self.peers[peer_id].applied
        return [e.data for e in applied if e.kind is EntryKind.NORMAL and e.data]


def log_of(terms: Iterable[int], membership: Membership, term: int, commit: int = 0) -> MemoryLog:
    """A log whose entries have these terms, as in the figures of the paper."""
    log = MemoryLog(membership)
    entries = [
        Entry(entry_term, index, EntryKind.NORMAL, b"%d.%d" % (entry_term, index))
        for index, entry_term in enumerate(terms, start=1)
    ]
    log.append(entries)
    log.set_hard_state(HardState(term, 0, commit))
    return log


def kinds(messages: Iterable[Message]) -> list[MessageKind]:
    return [message.kind for message in messages]
