"""Hypothesis chooses what happens, and shrinks what goes wrong to the shortest history.

The world and its checks are those of the simulator; only the dice are hypothesis's.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ha_scheduler.raft import CallerError, ChangeKind, Membership, MembershipChange

from .simulator import SimPeer, Simulator, World

CALM = World(loss=0, duplicate=0, delay=0)
peers = st.integers(1, 5)


class CellMachine(RuleBasedStateMachine):
    """Three peers, more by membership change; crashes lose what was not synced."""

    @initialize(seed=st.integers(0, 50))
    def start(self, seed: int) -> None:
        self.sim = Simulator(seed, world=CALM)
        self.sim.meddling = True  # campaigns come at any time, which ends every lease

    def _peer(self, peer: int) -> SimPeer:
        return self.sim.peers.get(peer, self.sim.peers[1])

    @rule(peer=peers, ticks=st.integers(1, 25))
    def time_passes(self, peer: int, ticks: int) -> None:
        for _ in range(ticks):
            self.sim._tick(self._peer(peer))
            self.sim._check(self._peer(peer))

    @rule(peer=peers)
    def campaign(self, peer: int) -> None:
        node = self._peer(peer).node
        if node is not None:
            node.campaign()

    @precondition(lambda self: self.sim.wire)
    @rule(data=st.data(), again=st.booleans())
    def one_message_arrives(self, data: st.DataObject, again: bool) -> None:
        position = data.draw(st.integers(0, len(self.sim.wire) - 1))
        message = self.sim.wire.pop(position)
        if again:
            self.sim.wire.append(message)
        self.sim.wire.insert(0, message)
        self.sim._deliver()

    @precondition(lambda self: self.sim.wire)
    @rule()
    def all_messages_arrive(self) -> None:
        for _ in range(len(self.sim.wire)):
            self.sim._deliver()

    @precondition(lambda self: self.sim.wire)
    @rule(data=st.data())
    def one_message_is_lost(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.sim.wire) - 1))
        self.sim._lost(self.sim.wire.pop(position))

    @rule(peer=peers)
    def a_ready_is_taken(self, peer: int) -> None:
        self.sim._take_ready(self._peer(peer))

    @rule()
    def every_disk_catches_up(self) -> None:
        for peer in self.sim.peers.values():
            self.sim._take_ready(peer)
            while peer.node is not None and peer.writes:
                self.sim._complete_write(peer)
            self.sim._check(peer)

    @rule(peer=peers)
    def a_write_completes(self, peer: int) -> None:
        self.sim._complete_write(self._peer(peer))
        self.sim._check(self._peer(peer))

    @rule(peer=peers)
    def propose(self, peer: int) -> None:
        self.sim._propose(self._peer(peer))

    @rule(peer=peers)
    def read(self, peer: int) -> None:
        self.sim._read(self._peer(peer))

    @rule(peer=peers)
    def crash(self, peer: int) -> None:
        self.sim._crash(self._peer(peer))

    @rule()
    def restart(self) -> None:
        self.sim._restart_one()

    @rule(peer=peers)
    def compact(self, peer: int) -> None:
        self.sim._compact(self._peer(peer))

    @rule(peer=peers, to=peers)
    def transfer(self, peer: int, to: int) -> None:
        node = self._peer(peer).node
        try:
            if node is not None:
                node.transfer_leadership(to)
        except CallerError:
            pass

    @rule(peer=peers, kind=st.sampled_from(ChangeKind), other=peers)
    def change_membership(self, peer: int, kind: ChangeKind, other: int) -> None:
        node = self._peer(peer).node
        try:
            if node is not None:
                node.propose_membership(MembershipChange(kind, other))
        except CallerError:
            return
        if node is not None and other not in self.sim.peers:
            self.sim._add_peer(other, Membership(()))


TestCell = CellMachine.TestCase
TestCell.settings = settings(
    max_examples=40,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
