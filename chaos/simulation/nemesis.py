"""What is done to a cell in the safety phase: faults, and the acts of an operator.

Guarantee: of each membership that is or may come into force a quorum of disks stays good; beyond
that nothing that Raft promises can hold. Nothing else is spared: the leader, a majority of
processes, all links at once.

The operator is wise in one thing only: a change of membership must leave a quorum of good disks.
An id whose disk is lost never comes back: a host that replaces it has a new id, and joins as a
learner.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import lmdb

from chaos.simulation.hostile import HostileEngine
from chaos.simulation.network import shape
from chaos.simulation.peer import Process, SimPeer
from chaos.simulation.world import World
from ha_scheduler.raft.errors import CallerError
from ha_scheduler.raft.membership import ChangeKind, MembershipChange
from ha_scheduler.raft.messages import (
    MAX_TERM,
    Membership,
    Message,
    MessageKind,
    SnapshotMeta,
)
from ha_scheduler.raft.terms import PATIENCE

WORK = {"propose": "propose_every_s", "read": "read_every_s"}
TABLES_EVERY_S = 3.0
LIAR = 1  # the peer whose key is not its own alone


class Nemesis:
    """Everything that is due, each thing at moments of its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        self._hostile = HostileEngine(random.Random(f"engine {world.options.seed}"))
        world.on_lead = self.leads
        options = world.options
        self._every(options.propose_every_s, world.propose)
        self._every(options.read_every_s, world.read)
        self._every(TABLES_EVERY_S, world.check_some_tables)
        for kind, seconds in options.every.items():
            self._every(seconds, getattr(self, f"_{kind}"))

    def _every(self, seconds: float, act: Callable[[], None]) -> None:
        def due() -> None:
            if not self._world.calm:
                act()
                self._every(seconds, act)

        self._world.timeline.after(self._rng.expovariate(1.0) * seconds, due)

    def _some_peer(self) -> SimPeer | None:
        """Any peer that runs; the leader in half of the cases."""
        leaders, running = self._world.leaders(), self._world.running()
        if leaders and self._rng.random() < 0.5:
            return self._rng.choice(leaders).host
        return self._rng.choice(running).host if running else None

    def _some_leader(self) -> Process | None:
        leaders = [p for p in self._world.leaders() if not p.paused]
        return self._rng.choice(leaders) if leaders else None

    # -- processes ---------------------------------------------------------------------------

    def _crash(self) -> None:
        peer = self._some_peer()
        if peer is not None:
            self._world.crash(peer)
            self._world.restart_later(peer)

    def _blackout(self) -> None:
        """The power is gone for all of them, or for most."""
        for process in self._world.running():
            if self._rng.random() < 0.9:
                self._world.crash(process.host)
                self._world.restart_later(process.host)

    def _pause(self) -> None:
        peer = self._some_peer()
        if peer is not None and peer.process is not None:
            self._world.freeze(
                peer.process, self._rng.expovariate(1.0) * self._world.options.pause_s
            )

    def _stray(self) -> None:
        """Who has the key of one peer, or was removed, says a term far beyond all.

        Any message will do: none of them is believed. A peer without a membership would be right to
        believe it, and one without pre-votes has no limit (``raft/terms.py``).
        """
        world, rng = self._world, self._rng
        patience = PATIENCE / 2 * world.options.election_ticks  # then a liar may be followed
        told = [
            p
            for p in world.running()
            if len(p.node.membership.voters) > 1
            and p.id != LIAR
            and p.node._core._without_leader < patience
        ]
        if not world.options.pre_vote or not told:
            return
        process = rng.choice(told)
        members = {v for m in world.checker.memberships_in_play() for v in m.voters}
        members.update(process.node.membership.voters)
        source = rng.choice([LIAR, *(p for p in world.peers if p not in {*members, process.id})])
        least = max(p.node.term for p in world.running()) + 100
        term = rng.choice((MAX_TERM, rng.randrange(least, least + 1000), least))
        kind = rng.choice(tuple(MessageKind))
        meta = None
        if kind is MessageKind.SNAPSHOT:
            meta = SnapshotMeta(10**6, term, process.node.membership)
        reject, force = rng.random() < 0.5, rng.random() < 0.5
        index, log_term = 10**6, term if kind is not MessageKind.APPEND else 0
        world.trace.note("%d is told by %d of term %d: %s", process.id, source, term, kind.name)
        process.run(
            process.receive,
            Message(
                kind,
                process.id,
                source,
                term,
                index=index,
                log_term=log_term,
                reject=reject,
                snapshot=meta,
                force=force,
            ),
        )

    def _overstep(self) -> None:
        """The engine of a leader proposes what it likes."""
        leader = self._some_leader()
        if leader is not None:
            leader.run(self._hostile.propose, leader)

    # -- network and clocks ------------------------------------------------------------------

    def _cut(self) -> None:
        world, rng = self._world, self._rng
        leaders = world.leaders()
        name, links = shape(rng, tuple(world.peers), leaders[-1].id if leaders else 0)
        if not links:
            return
        holds = rng.random() < 0.4
        world.trace.note("cut %s (%s): %s", name, "holds" if holds else "drops", sorted(links))
        mean_s = world.options.cut_s
        if rng.random() < 0.2:  # link by link, healed in another order
            for link in sorted(links):
                begins = rng.uniform(0.0, mean_s)
                world.timeline.after(begins, self._cut_for, frozenset({link}), holds, mean_s)
        else:
            self._cut_for(links, holds, mean_s)

    def _cut_for(self, links: frozenset[tuple[int, int]], holds: bool, mean_s: float) -> None:
        if self._world.calm:
            return
        cut = self._world.network.cut(links, holds=holds)
        self._world.timeline.after(
            self._rng.expovariate(1.0) * mean_s, self._world.network.heal, cut
        )

    def _drift(self) -> None:
        """In half of the cases those who lead are slow and the others fast: the worst of all."""
        worst = self._rng.random() < 0.5
        slow = {leader.id for leader in self._world.leaders()}
        for peer in self._world.peers.values():
            fast = peer.id not in slow if worst else self._rng.random() < 0.5
            peer.clock.run_at(self._world.options.rate_max if fast else 1.0)

    # -- disks -------------------------------------------------------------------------------

    def _slow_disk(self) -> None:
        peer = self._some_peer()
        if peer is not None:
            peer.disk.slowness = self._rng.choice((1.0, 1.0, 10.0, 100.0))

    def _stuck_disk(self) -> None:
        peer = self._some_peer()
        if peer is not None:
            peer.disk.stuck = True
            self._world.trace.note("the disk of %d is stuck", peer.id)
            seconds = self._rng.expovariate(1.0) * self._world.options.cut_s
            self._world.timeline.after(seconds, setattr, peer.disk, "stuck", False)

    def _disk_error(self) -> None:
        peer = self._some_peer()
        if peer is None:
            return
        errors: tuple[Exception, ...] = (
            lmdb.Error("mdb_txn_commit: Input/output error"),
            lmdb.MapFullError("mdb_put: MDB_MAP_FULL"),
            OSError(errno.ENOSPC, "No space left on device"),
        )
        peer.disk.fail_next(self._rng.choice(errors), written=self._rng.random() < 0.5)

    def _withhold(self) -> None:
        """A peer has no snapshot to give for a while."""
        peer = self._some_peer()
        if peer is not None and peer.process is not None:
            store = peer.process.store
            store.withheld = True
            seconds = self._rng.expovariate(1.0) * self._world.options.cut_s
            self._world.timeline.after(seconds, setattr, store, "withheld", False)

    def _may_lose(self, peer: SimPeer) -> bool:
        world = self._world
        return peer.good and world.may_lose((peer.id,), world.checker.memberships_in_play())

    def _flip(self) -> None:
        peer = self._rng.choice(tuple(self._world.peers.values()))
        if peer.lost or not self._may_lose(peer):
            return
        damage = self._rng.choice((peer.disk.flip, peer.disk.lose_row, peer.disk.lose_write))
        what = damage(self._rng) or peer.disk.flip(self._rng)
        self._world.trace.note("the disk of %d is damaged: %s", peer.id, what)
        if self._rng.random() < 0.5:
            self._world.crash(peer)
            self._world.restart_later(peer)

    def _wipe(self) -> None:
        peer = self._rng.choice(tuple(self._world.peers.values()))
        if self._may_lose(peer):
            self._world.crash(peer, "loses its disk")
            peer.lost = True

    # -- the operator ------------------------------------------------------------------------

    def _membership(self) -> None:
        """One change, or several in one breath; each is refused or takes effect."""
        for _ in range(self._rng.choice((1, 1, 3))):
            leader = self._some_leader()
            if leader is not None:
                self._change(leader)

    def leads(self, process: Process) -> None:
        """A leader is new: it is cut off at once, or an operator has waited for it."""
        if "cut" in self._world.options.every and self._rng.random() < 0.2:
            others = [peer for peer in self._world.peers if peer != process.id]
            links = {(process.id, o) for o in others} | {(o, process.id) for o in others}
            self._cut_for(frozenset(links), self._rng.random() < 0.4, self._world.options.cut_s)
        if "membership" in self._world.options.every and self._rng.random() < 0.3:
            self._change(process)

    def _change(self, leader: Process) -> None:
        change = self._draw_change(leader)
        if change is None:
            return
        membership = leader.node.membership
        voters = set(membership.voters) - {change.peer}
        if change.kind is ChangeKind.ADD_VOTER:
            voters.add(change.peer)
        if change.peer not in self._world.peers:
            # Its address is known before it takes part; it learns the membership from the leader.
            self._world.add(change.peer, Membership(()))
        if not voters or not self._world.may_lose((), [Membership(tuple(sorted(voters)))]):
            return
        try:
            leader.run(leader.node.propose_membership, change)
        except CallerError:
            return
        self._world.trace.note("%d proposes %s of %d", leader.id, change.kind.name, change.peer)
        leader.run(leader.driver._schedule)

    def _draw_change(self, leader: Process) -> MembershipChange | None:
        """Replace what is lost first; otherwise anything."""
        rng, peers = self._rng, self._world.peers
        membership = leader.node.membership
        lost = [p for p in membership.peers if peers[p].lost]
        if lost and rng.random() < 0.7:
            return MembershipChange(ChangeKind.REMOVE, lost[0])
        if membership.learners and rng.random() < 0.5:
            return MembershipChange(ChangeKind.ADD_VOTER, rng.choice(membership.learners))
        if rng.random() < 0.4:
            if len(membership.peers) >= self._world.options.members_max:
                return None
            kind = ChangeKind.ADD_LEARNER if rng.random() < 0.7 else ChangeKind.ADD_VOTER
            return MembershipChange(kind, max(peers) + 1)
        fit = [p for p in peers if not peers[p].lost]
        return MembershipChange(rng.choice(tuple(ChangeKind)), rng.choice(fit))

    def _transfer(self) -> None:
        leader = self._some_leader()
        if leader is not None:
            try:
                leader.run(
                    leader.driver.transfer_leadership,
                    self._rng.choice(leader.node.membership.peers),
                )
            except CallerError:
                pass

    def _step_down(self) -> None:
        leader = self._some_leader()
        if leader is not None:
            leader.run(leader.driver.step_down)

    def _unelectable(self) -> None:
        peer = self._some_peer()
        if peer is not None and peer.process is not None:
            peer.process.node.electable = self._rng.random() < 0.4

    def _campaign(self) -> None:
        peer = self._some_peer()
        if peer is not None and peer.process is not None and not peer.process.paused:
            peer.process.run(peer.process.node.campaign)
            peer.process.run(peer.process.driver._schedule)
