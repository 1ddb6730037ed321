"""Hypothesis chooses what happens, and shrinks what goes wrong to the shortest history.

The world and its checks are those of the simulation, without chance: messages take the same time,
disks too, and what is to be reordered is held by a cut.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from chaos.simulation.network import Cut
from chaos.simulation.options import Options, draw
from chaos.simulation.peer import Process
from chaos.simulation.world import World
from ha_scheduler.raft.errors import CallerError
from ha_scheduler.raft.membership import ChangeKind, MembershipChange
from ha_scheduler.raft.messages import Membership

peers = st.integers(1, 5)


def quiet(seed: int) -> Options:
    """A world in which nothing happens by itself. Campaigns come at any time: no lease holds."""
    return replace(
        draw(seed, safety_s=1.0),
        voters=3,
        loss=0.0,
        duplicate=0.0,
        late=0.0,
        snapshot_loss=0.0,
        delay_s=0.01,
        snapshot_s=0.05,
        sites={},
        every={"campaign": 1.0},
    )


class CellMachine(RuleBasedStateMachine):
    """Three peers, more by membership change."""

    @initialize(seed=st.integers(0, 50))
    def start(self, seed: int) -> None:
        self.world = World(quiet(seed))
        self.cuts: list[Cut] = []

    def _process(self, peer: int) -> Process | None:
        """The process of this peer, or of the first, if it runs and is not frozen."""
        host = self.world.peers.get(peer, self.world.peers[1])
        return host.process if host.process is not None and not host.process.paused else None

    @rule(seconds=st.sampled_from((0.005, 0.02, 0.1, 0.5, 2.0)))
    def time_passes(self, seconds: float) -> None:
        self.world.timeline.run_until(self.world.timeline.now + seconds)

    @rule(peer=peers)
    def campaign(self, peer: int) -> None:
        process = self._process(peer)
        if process is not None:
            process.run(process.node.campaign)
            process.run(process.driver._schedule)

    @rule(near=st.sets(peers, min_size=1), far=st.sets(peers, min_size=1), holds=st.booleans())
    def links_are_cut(self, near: set[int], far: set[int], holds: bool) -> None:
        links = frozenset((a, b) for a in near for b in far if a != b)
        self.cuts.append(self.world.network.cut(links, holds=holds))

    @rule(which=st.integers(0, 5))
    def a_cut_heals(self, which: int) -> None:
        if self.cuts:
            self.world.network.heal(self.cuts.pop(which % len(self.cuts)))

    @rule(peer=peers)
    def crash(self, peer: int) -> None:
        self.world.crash(self.world.peers.get(peer, self.world.peers[1]))

    @rule(peer=peers)
    def restart(self, peer: int) -> None:
        self.world.start(self.world.peers.get(peer, self.world.peers[1]))

    @rule(peer=peers, seconds=st.sampled_from((0.1, 1.0, 5.0)))
    def freeze(self, peer: int, seconds: float) -> None:
        process = self._process(peer)
        if process is not None:
            self.world.freeze(process, seconds)

    @rule(peer=peers, stuck=st.booleans())
    def a_disk_is_stuck_or_goes_on(self, peer: int, stuck: bool) -> None:
        self.world.peers.get(peer, self.world.peers[1]).disk.stuck = stuck

    @rule()
    def propose(self) -> None:
        self.world.propose()

    @rule()
    def read(self) -> None:
        self.world.read()

    @rule(peer=peers, to=peers)
    def transfer(self, peer: int, to: int) -> None:
        process = self._process(peer)
        try:
            if process is not None:
                process.run(process.driver.transfer_leadership, to)
        except CallerError:
            pass

    @rule(peer=peers, kind=st.sampled_from(ChangeKind), other=peers)
    def change_membership(self, peer: int, kind: ChangeKind, other: int) -> None:
        process = self._process(peer)
        if process is None:
            return
        if other not in self.world.peers:
            self.world.add(other, Membership(()))
        try:
            process.run(process.node.propose_membership, MembershipChange(kind, other))
            process.run(process.driver._schedule)
        except CallerError:
            pass

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.check_liveness()


TestCell = CellMachine.TestCase
TestCell.settings = settings(
    max_examples=40,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
