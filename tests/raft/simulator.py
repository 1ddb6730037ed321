"""A whole cell under a hostile, seeded world; the safety of Raft is checked after each step.

The world loses, duplicates, delays and reorders messages, cuts links in one or both directions,
completes writes late and several at a time, crashes peers so that whatever was not yet synced is
gone, compacts logs, proposes, reads, transfers leadership, and changes the membership. Then it
heals, and a quorum must make progress: a cell that is safe because it does nothing fails too.

Checked (figure 3 of the paper):

* election safety: one leader a term;
* log matching: same index and term, same entry, and the same entry before it;
* leader completeness: a leader of a later term holds what was committed in an earlier one. The
  term that counts is the one in which the entry was *committed*, not the one it carries;
* state-machine safety: no two peers apply different entries at one index;
* a read's index is at least what was committed anywhere when the read was asked for;
* a valid lease means that no other peer leads a newer term (as long as ticks are equally fast).
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from ha_scheduler.raft import (
    CallerError,
    ChangeKind,
    CompactedError,
    Config,
    Entry,
    EntryKind,
    Membership,
    MembershipChange,
    MemoryLog,
    Message,
    MessageKind,
    RawNode,
    Ready,
    Role,
    decode_membership,
    message_from_wire,
    message_to_wire,
)


class SafetyViolationError(AssertionError):
    """The core did something that Raft promises never to happen."""


@dataclass
class World:
    """How hostile the world is, as chances per step."""

    loss: float = 0.05
    duplicate: float = 0.05
    delay: float = 0.15
    cut: float = 0.01
    heal: float = 0.03
    crash: float = 0.005
    restart: float = 0.05
    compact: float = 0.02
    transfer: float = 0.01
    change: float = 0.05
    read: float = 0.05
    propose: float = 0.4


@dataclass
class SimPeer:
    """One peer: what survives a crash (`log`), and what does not."""

    id: int
    log: MemoryLog
    node: RawNode | None = None
    writes: deque[Ready] = field(default_factory=deque)
    skew: float = 1.0
    #: Machine state: a running hash of everything applied. It is what a snapshot carries.
    digest: int = 0
    digest_index: int = 0


class Simulator:
    """Deterministic: the same seed plays the same history."""

    def __init__(self, seed: int, *, peers: int = 3, world: World | None = None) -> None:
        self.rng = random.Random(seed)
        self.world = world or World()
        self.voters = tuple(range(1, peers + 1))
        self.steps = 0
        self._turns: list[int] = []
        self.applied_count = 0
        self.wire: list[Message] = []
        self.cut_links: set[tuple[int, int]] = set()
        self.frozen_world = False  # no new faults: the liveness phase
        self.skewed = self.rng.random() < 0.3  # clocks drift, without bounds
        self.meddling = self.rng.random() < 0.3  # an operator forces elections
        self.settings = self._draw_settings()
        #: What the checks know of the history.
        self.leader_of_term: dict[int, int] = {}
        self.committed: dict[int, tuple[Entry, int]] = {}  # index -> entry, term of its commit
        self.entry_at: dict[tuple[int, int], tuple[Entry, int]] = {}  # -> entry, previous term
        self.digest_at: dict[int, int] = {0: 0}
        self.max_committed = 0
        self.reads: dict[bytes, int] = {}
        self.reads_answered = 0
        self.next_value = 0
        self.peers: dict[int, SimPeer] = {}
        for peer_id in self.voters:
            self._add_peer(peer_id, Membership(self.voters))

    def _draw_settings(self) -> dict[str, object]:
        rng = self.rng
        return {
            "election_ticks": 10,
            "heartbeat_ticks": rng.choice((1, 2)),
            "pre_vote": rng.random() < 0.8,
            "check_quorum": rng.random() < 0.8,
            "max_append_bytes": rng.choice((1, 100, 1 << 20)),
            "max_inflight_messages": rng.choice((1, 3, 64)),
            "max_uncommitted_bytes": rng.choice((1 << 10, 1 << 28)),
            "max_entry_bytes": 1 << 10,
            "max_applying_bytes": rng.choice((1, 1 << 26)),
            "apply_unpersisted": rng.random() < 0.3,
        }

    def _add_peer(self, peer_id: int, membership: Membership) -> SimPeer:
        peer = SimPeer(peer_id, MemoryLog(membership))
        if self.skewed:
            peer.skew = self.rng.uniform(0.8, 1.0)
        self.peers[peer_id] = peer
        self._start(peer)
        return peer

    def _start(self, peer: SimPeer) -> None:
        config = Config(peer_id=peer.id, **self.settings)  # type: ignore[arg-type]
        rng = random.Random(self.rng.random())
        peer.node = RawNode(config, peer.log, rng, applied=peer.log.applied)
        peer.writes.clear()
        index = peer.log.applied
        peer.digest_index, peer.digest = index, self.digest_at[index]

    # -- running ---------------------------------------------------------------------------

    def run(self, steps: int, *, liveness_rounds: int = 400) -> None:
        for _ in range(steps):
            self.step()
        self.check_liveness(liveness_rounds)

    def step(self) -> None:
        """One thing happens somewhere, then everything is checked."""
        self.steps += 1
        peer = self.peers[self.rng.choice(tuple(self.peers))]
        draw = self.rng.random()
        if draw < 0.06:
            self._some_tick()
        elif draw < 0.56:
            self._deliver()
        elif draw < 0.74:
            self._take_ready(peer)
        elif draw < 0.92:
            self._complete_write(peer)
        else:
            self._mischief(peer)
        self._check(peer)

    def _some_tick(self) -> None:
        """Clocks run equally fast, with any phase, unless they drift."""
        ids = tuple(self.peers)
        if self.skewed:
            self._tick(self.peers[self.rng.choice(ids)])
            return
        if not self._turns:
            self._turns = self.rng.sample(ids, len(ids))
        self._tick(self.peers[self._turns.pop()])

    def _tick(self, peer: SimPeer) -> None:
        if peer.node is not None and self.rng.random() < peer.skew:
            peer.node.tick()

    def _deliver(self) -> None:
        if not self.wire:
            return
        calm = self.frozen_world
        late = not calm and self.rng.random() < self.world.delay
        message = self.wire.pop(self.rng.randrange(len(self.wire)) if late else 0)
        if not calm and self.rng.random() < self.world.duplicate:
            self.wire.append(message)
        lost = not calm and self.rng.random() < self.world.loss
        peer = self.peers.get(message.to)
        cut = (message.source, message.to) in self.cut_links
        if lost or cut or peer is None or peer.node is None:
            self._lost(message)
            return
        peer.node.step(message_from_wire(message_to_wire(message)))
        self._check(peer)
        if message.kind is MessageKind.SNAPSHOT:
            self._report(message, ok=True)

    def _lost(self, message: Message) -> None:
        if message.kind is MessageKind.SNAPSHOT:
            self._report(message, ok=False)
        elif self.rng.random() < 0.2:
            source = self.peers.get(message.source)
            if source is not None and source.node is not None:
                source.node.report_unreachable(message.to)

    def _report(self, message: Message, *, ok: bool) -> None:
        source = self.peers.get(message.source)
        if source is not None and source.node is not None:
            source.node.report_snapshot(message.to, ok)

    def _take_ready(self, peer: SimPeer) -> None:
        if peer.node is None or not peer.node.has_ready():
            return
        ready = peer.node.ready()
        self._check_order(peer, ready)
        self.wire.extend(ready.messages)
        for state in ready.read_states:
            self._check_read(state.context, state.index)
        peer.writes.append(ready)

    def _complete_write(self, peer: SimPeer) -> None:
        """The disk finished one write, or a group of them at once."""
        if peer.node is None or not peer.writes:
            return
        group = [peer.writes.popleft() for _ in range(self.rng.randint(1, len(peer.writes)))]
        for ready in group:
            self._persist(peer, ready)
        peer.node.persisted(group[-1].number)
        for ready in group:
            self.wire.extend(ready.messages_after_persist)
            self._apply(peer, ready)

    def _persist(self, peer: SimPeer, ready: Ready) -> None:
        if ready.snapshot is not None:
            peer.log.install_snapshot(ready.snapshot)
            peer.digest_index = ready.snapshot.index
            peer.digest = self.digest_at[ready.snapshot.index]
        if ready.hard_state is not None:
            peer.log.set_hard_state(ready.hard_state)
        peer.log.append(ready.entries)

    def _apply(self, peer: SimPeer, ready: Ready) -> None:
        for entry in ready.committed:
            if entry.index <= peer.digest_index:
                continue  # a snapshot overtook it
            if entry.index != peer.digest_index + 1:
                raise SafetyViolationError(f"{peer.id} applies {entry.index} out of order")
            peer.digest = hash((peer.digest, entry.term, entry.index, entry.data))
            peer.digest_index = entry.index
            self.applied_count += 1
            known = self.digest_at.setdefault(entry.index, peer.digest)
            if known != peer.digest:
                raise SafetyViolationError(f"{peer.id} applied another history up to {entry.index}")
            membership = peer.log.snapshot().membership
            if entry.kind is EntryKind.CONF_CHANGE:
                membership = decode_membership(entry.data)[0]
            peer.log.record_applied(entry.index, membership)
        if ready.committed and peer.node is not None:
            peer.node.applied_to(ready.committed[-1].index)

    # -- mischief --------------------------------------------------------------------------

    def _mischief(self, peer: SimPeer) -> None:
        world, chance = self.world, self.rng.random
        if chance() < world.propose * 2:
            self._propose(peer)
        if self.frozen_world:
            return
        if chance() < world.read * 5:
            self._read(peer)
        if chance() < world.compact * 5:
            self._compact(peer)
        if chance() < world.transfer * 5:
            self._transfer(peer)
        if chance() < world.change * 5:
            self._change_membership(peer)
        if chance() < world.crash * 5:
            self._crash(peer)
        if chance() < world.restart * 5:
            self._restart_one()
        if chance() < world.cut * 5:
            self._cut(peer)
        if chance() < world.heal * 5:
            self.cut_links.clear()
        if peer.node is not None and chance() < 0.02:
            peer.node.electable = not peer.node.electable
        if peer.node is not None and chance() < 0.01:
            peer.node.step_down()
        if peer.node is not None and self.meddling and chance() < 0.02:
            peer.node.campaign()

    def _propose(self, peer: SimPeer) -> None:
        if peer.node is None or peer.node.role is not Role.LEADER:
            return
        try:
            count = self.rng.choice((1, 1, 1, 3))
            batch = [b"v%d" % (self.next_value + n) for n in range(count)]
            peer.node.propose_batch(batch)
            self.next_value += count
        except CallerError:
            pass

    def _read(self, peer: SimPeer) -> None:
        if peer.node is None:
            return
        context = b"r%d" % len(self.reads)
        try:
            peer.node.read_index(context)
            self.reads[context] = self.max_committed
        except CallerError:
            pass

    def _compact(self, peer: SimPeer) -> None:
        low, high = peer.log.first_index(), peer.log.applied
        if low < high:
            peer.log.compact(self.rng.randint(low, high))

    def _transfer(self, peer: SimPeer) -> None:
        try:
            if peer.node is not None:
                peer.node.transfer_leadership(self.rng.choice(tuple(self.peers)))
        except CallerError:
            pass

    def _change_membership(self, peer: SimPeer) -> None:
        if peer.node is None or peer.node.role is not Role.LEADER:
            return
        target = self.rng.randint(1, len(self.voters) + 2)
        kind = self.rng.choice(tuple(ChangeKind))
        if kind is ChangeKind.REMOVE and len(peer.node.membership.voters) <= 2:
            return
        try:
            peer.node.propose_membership(MembershipChange(kind, target))
        except CallerError:
            return
        if target not in self.peers:
            self._add_peer(target, Membership(()))

    def _crash(self, peer: SimPeer) -> None:
        """Power fails: some of the queued writes made it, whole and in order, the rest did not."""
        if peer.node is None:
            return
        for _ in range(self.rng.randint(0, len(peer.writes))):
            self._persist(peer, peer.writes.popleft())
        peer.writes.clear()
        peer.node = None

    def _restart_one(self) -> None:
        down = [p for p in self.peers.values() if p.node is None]
        if down:
            self._start(self.rng.choice(down))

    def _cut(self, peer: SimPeer) -> None:
        """A peer, or one direction of its traffic, is cut off."""
        way = self.rng.choice(("both", "in", "out"))
        for other in self.peers:
            if way != "in":
                self.cut_links.add((peer.id, other))
            if way != "out":
                self.cut_links.add((other, peer.id))

    # -- checks ----------------------------------------------------------------------------

    def _check(self, peer: SimPeer) -> None:
        node = peer.node
        if node is None:
            return
        node.check_invariants()
        if node.role is Role.LEADER:
            self._check_leader(node)
        self._note_committed(node)

    def _check_leader(self, node: RawNode) -> None:
        first_seen = node.term not in self.leader_of_term
        if self.leader_of_term.setdefault(node.term, node.peer_id) != node.peer_id:
            raise SafetyViolationError(f"two leaders in term {node.term}")
        if first_seen:
            self._check_completeness(node)
        if (
            node.lease_valid
            and not (self.skewed or self.meddling)
            and node.term < max(self.leader_of_term)
        ):
            newest = max(self.leader_of_term)
            leader = self.peers[self.leader_of_term[newest]].node
            if leader is not None and leader.role is Role.LEADER and leader.term == newest:
                raise SafetyViolationError(
                    f"{node.peer_id} has a lease in {node.term}, but {newest} has a leader"
                )

    def _check_completeness(self, node: RawNode) -> None:
        for index, (entry, commit_term) in self.committed.items():
            if commit_term >= node.term or index < node.first_index:
                continue
            if index > node.last_index or node.entry_term(index) != entry.term:
                raise SafetyViolationError(
                    f"leader {node.peer_id} of term {node.term} lacks entry {index}, "
                    f"committed in term {commit_term}"
                )

    def _note_committed(self, node: RawNode) -> None:
        while self.max_committed < node.commit:
            index = self.max_committed + 1
            try:
                (entry,) = node._core.log.entries(index, index + 1, 1)
            except CompactedError:
                raise SafetyViolationError(
                    f"{index} was compacted before it was committed"
                ) from None
            self.committed[index] = entry, node.term
            self.max_committed = index

    def _check_order(self, peer: SimPeer, ready: Ready) -> None:
        """Log matching for what is about to be persisted, and one history for what is applied."""
        for entry in ready.entries:
            assert peer.node is not None
            try:
                previous = peer.node.entry_term(entry.index - 1)
            except CompactedError:
                continue
            known = self.entry_at.setdefault((entry.term, entry.index), (entry, previous))
            if known != (entry, previous):
                raise SafetyViolationError(f"two entries at {entry.index} of term {entry.term}")
        for entry in ready.committed:
            if self.committed[entry.index][0] != entry:
                raise SafetyViolationError(f"{peer.id} would apply another {entry.index}")

    def _check_read(self, context: bytes, index: int) -> None:
        self.reads_answered += 1
        if index < self.reads[context]:
            raise SafetyViolationError(
                f"read {context!r} got {index}, but {self.reads[context]} was already committed"
            )

    # -- liveness --------------------------------------------------------------------------

    def check_liveness(self, rounds: int) -> None:
        """Heal everything; then a new value must be committed and applied by every voter."""
        self.frozen_world = True
        self.cut_links.clear()
        for peer in self.peers.values():
            if peer.node is None:
                self._start(peer)
            assert peer.node is not None
            peer.node.electable = True
        goal = None
        for _ in range(rounds):
            self._calm_round()
            goal = goal or self._propose_goal()
            if goal is not None and self._reached(*goal):
                return
        raise AssertionError(f"no progress in {rounds} calm rounds: {self.describe()}")

    def _calm_round(self) -> None:
        for peer in self.peers.values():
            self._tick(peer)
        for _ in range(100):
            for peer in self.peers.values():
                self._take_ready(peer)
                self._complete_write(peer)
                self._check(peer)
            if not self.wire:
                return
            for _ in range(len(self.wire)):
                self._deliver()

    def _propose_goal(self) -> tuple[int, int] | None:
        for peer in self.peers.values():
            if peer.node is not None and peer.node.role is Role.LEADER:
                try:
                    return peer.node.propose(b"goal"), peer.node.term
                except CallerError:
                    return None
        return None

    def _reached(self, index: int, term: int) -> bool:
        leaders = [p for p in self.peers.values() if p.node and p.node.role is Role.LEADER]
        for leader in leaders:
            assert leader.node is not None
            voters = leader.node.membership.voters
            if all(self.peers[v].digest_index >= index for v in voters):
                return True
        return False

    def describe(self) -> str:
        return "; ".join(
            f"{p.id}: {p.node.role.value} t{p.node.term} [{p.node.first_index},"
            f"{p.node.last_index}] c{p.node.commit} a{p.node.applied} {p.node.membership}"
            for p in self.peers.values()
            if p.node is not None
        )
