"""One world: a cell of peers, what is done to it, and what must come of it in the end.

Guarantee: the same seed plays the same history, in any process and under any hash seed.

First the *safety phase*: anything may happen (``nemesis.py``), and the checker looks at every
event. Then the *liveness phase*: a random core of the cell that holds a quorum of each membership
in play is healed, the rest stays as it is or is gone. The core must elect a leader, commit a new
entry, and bring all its members to the same ledger, and go forward in every
``LIVENESS_ELECTIONS`` election timeouts until it is done. A cell that is safe because it does
nothing fails.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from chaos.simulation.checkers import Checker, LivenessViolationError, SafetyViolationError
from chaos.simulation.clock import Timeline
from chaos.simulation.network import Network
from chaos.simulation.options import Control, Options
from chaos.simulation.peer import Process, SimPeer, new_host
from chaos.simulation.snapshots import Streams
from chaos.simulation.store import shrink
from chaos.simulation.trace import Show, Trace
from ha_scheduler.ledger import encoding, records
from ha_scheduler.raft.errors import CallerError
from ha_scheduler.raft.messages import Membership, Message, ServerState
from ha_scheduler.storage.errors import CorruptData

LIVENESS_ELECTIONS = 120  # election timeouts without any progress: see seed 1045
CONVERGENCE_ELECTIONS = 600  # in all: with the smallest limits a long log takes its time
GOAL_EVERY_S = 0.5


class World:
    """The cell and everything around it."""

    def __init__(self, options: Options, show: Show | None = None) -> None:
        shrink(options.tail_bytes, options.trim_rows)
        self.options = options
        self.rng = random.Random(f"world {options.seed}")
        self.timeline = Timeline()
        self.trace = Trace(self.timeline, show)
        self.peers: dict[int, SimPeer] = {}
        members = Membership(tuple(range(1, options.voters + 1)))
        self.checker = Checker(options, self.peers, members)
        self.network = Network(self.timeline, self.rng, options, self._deliver, self._lost)
        self.streams = Streams(self)
        self.calm = False
        self.on_lead: Callable[[Process], None] = lambda process: None
        self.crashes = 0
        self._values = 0
        for peer_id in members.voters:
            self.add(peer_id, members)

    # -- peers -------------------------------------------------------------------------------

    def add(self, peer_id: int, membership: Membership) -> None:
        """A new host; the process on it starts."""
        self.peers[peer_id] = new_host(self, peer_id, membership)
        self.start(self.peers[peer_id])

    def start(self, peer: SimPeer) -> None:
        """A process starts on the host, if what is on its disk can be believed."""
        if peer.lost or peer.process is not None:
            return
        unfit = peer.disk.unfit
        try:
            process = Process(peer, self)
        except CorruptData as error:
            if not peer.disk.damaged:
                raise SafetyViolationError(f"{peer.id} refuses an intact disk: {error}") from error
            self.trace.note("%d refuses to start: %s", peer.id, error)
            peer.lost = True
            return
        if unfit:
            raise SafetyViolationError(f"{peer.id} starts on a damaged disk: {peer.disk.damaged}")
        peer.process = process
        self.trace.note("%d starts", peer.id)
        self.checker.started(process)
        self._check_tables(process)

    def crash(self, peer: SimPeer, why: str = "dies") -> None:
        """Its process is gone at once."""
        if peer.process is not None:
            self.crashes += 1
            self.trace.note("%d %s", peer.id, why)
            peer.process.die()
            if self.options.control is not None and self.options.control.lies:
                peer.disk.forget_reported(self.rng)

    def failed(self, process: Process, error: BaseException) -> None:
        """The process ended itself: its disk failed, or is damaged."""
        self.crash(process.host, f"ends: {error}")
        if isinstance(error, CorruptData):
            process.host.lost = True
        else:
            self.restart_later(process.host)

    def freeze(self, process: Process, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        if not process.paused:
            self.trace.note("%d freezes for %.2f s", process.id, seconds)
            process.paused = True
            self.timeline.after(seconds, self.thaw, process)

    def thaw(self, process: Process) -> None:
        """SIGCONT."""
        if process.paused and process.alive:
            self.trace.note("%d thaws", process.id)
            process.thaw()

    def restart_later(self, peer: SimPeer) -> None:
        """Somebody restarts what is down."""
        delay_s = self.rng.expovariate(1.0) * self.options.restart_s
        self.timeline.after(delay_s, self.start, peer)

    def maybe(self, process: Process, site: str) -> None:
        """A place where dying or freezing hurts most."""
        chance = self.options.sites.get(site)
        if chance is None or self.calm or self.rng.random() >= chance:
            return
        if self.rng.random() < 0.6:
            self.crash(process.host, f"dies at {site!r}")
            self.restart_later(process.host)
        else:
            self.freeze(process, self.rng.expovariate(1.0) * self.options.pause_s)

    def running(self) -> list[Process]:
        """Processes that are there, frozen or not."""
        return [peer.process for peer in self.peers.values() if peer.process is not None]

    def leaders(self) -> list[Process]:
        """Processes that take themselves for leaders."""
        return [p for p in self.running() if p.node.role is ServerState.LEADER]

    def may_lose(self, lost: Iterable[int], memberships: Iterable[Membership]) -> bool:
        """Whether each membership keeps a quorum of good disks without these peers."""
        gone = set(lost)
        for membership in memberships:
            good = [v for v in membership.voters if v not in gone and self.peers[v].good]
            if len(good) * 2 <= len(membership.voters):
                return False
        return True

    # -- messages ----------------------------------------------------------------------------

    def _deliver(self, message: Message) -> None:
        peer = self.peers.get(message.to)
        if peer is None or peer.process is None:
            self._lost(message)
            return
        self.trace.arrived(message)
        peer.process.run(peer.process.receive, message)

    def _lost(self, message: Message) -> None:
        source = self.peers[message.source].process
        if source is not None and self.rng.random() < 0.2:
            source.run(source.driver.report_unreachable, message.to)

    # -- work --------------------------------------------------------------------------------

    def propose(self) -> None:
        """A client asks a peer that takes itself for the leader, now and then an old one."""
        for process in self.leaders():
            if not process.paused and self.rng.random() < 0.8:
                batch = [self._record() for _ in range(self.rng.choice((1, 1, 1, 3)))]
                try:
                    process.run(process.propose, batch)
                except CallerError:
                    pass

    def read(self) -> None:
        """A client reads at any peer, by ReadIndex or under the lease."""
        running = self.running()
        if not running:
            return
        leaders = self.leaders()
        process = self.rng.choice(leaders if leaders and self.rng.random() < 0.5 else running)
        if process.paused:
            return
        if self.options.leases_hold:
            self.checker.read_under_lease(process)
        try:
            process.node.read_index(self.checker.read_asked())
            process.driver._schedule()
        except CallerError:
            pass

    def check_some_tables(self) -> None:
        """Compare one peer's ledger with what others had at the same index."""
        running = self.running()
        if running:
            self._check_tables(self.rng.choice(running))

    def _check_tables(self, process: Process) -> None:
        try:
            self.checker.tables(process)
        except CorruptData as error:
            if not process.host.disk.damaged:
                raise SafetyViolationError(f"{process.id} has a damaged ledger") from error
            self.failed(process, error)

    def _record(self) -> bytes:
        rng = self.rng
        self._values += 1
        name, space = b"n%d" % rng.randrange(8), rng.choice(("plugins", "metadata"))
        draw = rng.random()
        if draw < 0.7:
            value = b"%d." % self._values + b"x" * rng.randrange(self.options.propose_max_bytes)
            return encoding.encode(records.ValueSet(space, name, value, 0, 0, 0))
        if draw < 0.85:
            return encoding.encode(records.ValueDeleted(space, name))
        client = f"c{rng.randrange(4)}"
        if draw < 0.95:
            return encoding.encode(records.ClientJoined(client, f"s{self._values}"))
        return encoding.encode(records.ClientLeft(client))

    # -- the liveness phase ------------------------------------------------------------------

    def heal(self) -> list[SimPeer]:
        """No new faults; a core of the cell is well. Returns its peers."""
        self.calm = self.network.calm = True
        self.network.heal_all()
        core = self._draw_core()
        self.trace.note("healed: %s", [peer.id for peer in core])
        rest = [peer.id for peer in self.peers.values() if peer not in core]
        links = [(a, b) for a in rest for b in self.peers if a != b]
        if rest:
            self.network.cut(frozenset(links + [(b, a) for a, b in links]), holds=False)
        for peer in core:
            if self.options.control is Control.FAST_CLOCK:
                peer.clock.run_at(1.0)  # no bound of ours holds with such clocks
            peer.disk.stuck = False
            # Who needs an election timeout for each write can lead nobody.
            peer.disk.slowness = min(1.0, 0.05 * self.options.election_s / self.options.sync_s)
            peer.disk.env.failure = None
            if peer.process is not None:
                peer.process.store.withheld = False
                self.thaw(peer.process)
        for peer in core:
            self.start(peer)
            if peer.process is not None and self.rng.random() < 0.8:
                peer.process.node.electable = True
        return [peer for peer in core if peer.process is not None]

    def _draw_core(self) -> list[SimPeer]:
        core = [peer for peer in self.peers.values() if peer.good]
        order = list(core)
        self.rng.shuffle(order)
        if self.rng.random() < 0.5:
            for peer in order:
                others = [p.id for p in self.peers.values() if p not in core or p is peer]
                if self.may_lose(others, self.checker.memberships_in_play()):
                    core.remove(peer)
        return core

    def check_liveness(self) -> None:
        """The core makes progress and agrees. Raises ``LivenessViolationError``."""
        core = self.heal()
        limit_s = LIVENESS_ELECTIONS * self.options.election_s
        end_s = self.timeline.now + CONVERGENCE_ELECTIONS * self.options.election_s
        moved_s, reached = self.timeline.now, -1
        goals: dict[int, int] = {}
        while self.timeline.now < min(end_s, moved_s + limit_s):
            self.timeline.run_until(self.timeline.now + GOAL_EVERY_S)
            for leader in self.leaders():
                if leader.host in core and leader.node.term not in goals:
                    self._set_goal(leader, goals)
                if self._converged(leader, core, goals.get(leader.node.term)):
                    return
            now_reached = sum(p.store.applied() + p.host.disk.shadow.last for p in self.running())
            if now_reached > reached:
                moved_s, reached = self.timeline.now, now_reached
        raise LivenessViolationError(
            f"no progress in {self.timeline.now - moved_s:.0f} calm seconds: {self.describe()}"
        )

    def _set_goal(self, leader: Process, goals: dict[int, int]) -> None:
        try:
            leader.run(leader.propose, [self._record()])
            goals[leader.node.term] = leader.node.last_index
        except CallerError:
            pass

    def _converged(self, leader: Process, core: list[SimPeer], goal: int | None) -> bool:
        """Everybody of the core whom the leader knows has applied what it has."""
        if goal is None or self.checker.max_committed < max(goal, self.checker.acknowledged):
            return False
        known = [peer for peer in core if peer.id in leader.node.membership.peers]
        reached = [p.process.store.applied() for p in known if p.process is not None]
        if len(reached) < len(known) or set(reached) != {leader.store.applied()}:
            return False
        for peer in known:
            if peer.process is not None:
                self.checker.tables(peer.process)
        return min(reached) >= goal

    def describe(self) -> str:
        """Where every peer stands."""
        lines = []
        for peer in self.peers.values():
            if peer.process is None:
                lines.append(f"{peer.id}: {'lost' if peer.lost else 'down'}")
                continue
            node = peer.process.node
            lines.append(
                f"{peer.id}: {node.role.value} t{node.term} [{node.first_index}, "
                f"{node.last_index}] "
                f"commit {node.commit} applied {node.applied} {node.membership}"
                + " frozen"
                * peer.process.paused
            )
        return "\n  ".join(["", *lines])
