"""A peer: its host (disk and clock, which survive) and the process on it, which does not.

Guarantee: what runs here is the product: ``peer.driver.Driver``, ``raft.RawNode``,
``peer.lease``, the transactions of ``storage`` and the fold of ``ledger``. Of ``peer.replica``
only the order of events is repeated here: a lease is revoked before TIMEOUT_NOW leaves, and when
leadership ends.

A process is alive, frozen (as by SIGSTOP: what comes meanwhile waits and is then taken in at
once) or gone. ``maybe`` is called at places where dying or freezing hurts most.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chaos.simulation.checkers import SafetyViolationError
from chaos.simulation.clock import HostClock
from chaos.simulation.disk import SimDisk
from chaos.simulation.store import SimStore
from ha_scheduler.ledger import encoding, records
from ha_scheduler.peer.consensus.driver import Driver
from ha_scheduler.peer.consensus.lease import LeaderLease
from ha_scheduler.raft.config import Config
from ha_scheduler.raft.errors import CallerError, LogCorruptionError, PeerError
from ha_scheduler.raft.messages import (
    Entry,
    Membership,
    Message,
    MessageKind,
    ServerState,
    SnapshotMeta,
)
from ha_scheduler.raft.node import RawNode
from ha_scheduler.raft.ready import Ready, SoftState
from ha_scheduler.storage.errors import CorruptData, DiskFailed
from ha_scheduler.storage.port import SnapshotInstall, WriteBatch

if TYPE_CHECKING:
    from chaos.simulation.snapshots import Stream
    from chaos.simulation.world import World

WAKE_LATE_S = 1e-6  # a wake-up comes after its moment, not before


class SimPeer:
    """One host."""

    def __init__(self, peer_id: int, disk: SimDisk, clock: HostClock) -> None:
        self.id = peer_id
        self.disk = disk
        self.clock = clock
        self.process: Process | None = None
        #: The disk is destroyed, or damage was found on it: this id never runs again.
        self.lost = False

    @property
    def good(self) -> bool:
        """Whether its disk can still be counted on."""
        return not self.lost and not self.disk.damaged


class ObservedDriver(Driver):
    """The product's driver; somebody looks at each ``Ready`` before it is carried out."""

    look: Callable[[Ready], None]

    def _handle(self, ready: Ready) -> None:
        self.look(ready)
        super()._handle(ready)


class Process:
    """One run of the daemon of a peer, from its start to its death (``DriverEvents``)."""

    def __init__(self, host: SimPeer, world: World) -> None:
        """Raises ``LogReadError``."""
        options = world.options
        self.host = host
        self.id = host.id
        self.alive = True
        self.paused = False
        self.lease_until = 0.0  # on the host's clock, as in the page shared with the engine
        self.fed = 0  # the last entry that the engine was given
        self.known_commit = 0
        self.known_lead = 0
        self.streams: set[int] = set()  # peers to which a snapshot is on its way
        self.incoming: Stream | None = None
        self.waiting: dict[int, tuple[int, bytes]] = {}  # proposals: index → term, data
        self._world = world
        self._rng = random.Random(world.rng.random())
        self._backlog: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.store = SimStore(
            host.disk,
            world.timeline,
            self._rng,
            recent_bytes=options.recent_bytes,
            sync_s=options.sync_s,
            on_durable=self._durable,
            maybe=self.maybe,
        )
        self.fed = self.store.applied()
        config = _config(world, host.id)
        self.node = RawNode(
            config, self.store, random.Random(self._rng.random()), self.store.applied()
        )
        self.contact = LeaderLease(host.id, options.lease_s)
        self.driver = ObservedDriver(
            self.node,
            self.store,
            self,
            self.contact,
            options.tick_s,
            call_soon=self._call_soon,
            clock=host.clock.now,
        )
        self.driver.look = self._look
        world.timeline.after(self._rng.random() * options.tick_s, self.run, self._wake)

    @property
    def lease_valid(self) -> bool:
        """As the engine sees it."""
        return self.alive and self.host.clock.now() < self.lease_until

    # -- running -------------------------------------------------------------------------------

    def run(self, call: Callable[..., object], *args: Any) -> None:
        """The loop's turn: now, when it thaws, or never."""
        if not self.alive:
            return
        if self.paused:
            self._backlog.append((call, args))
            return
        try:
            call(*args)
        except CorruptData as error:
            self.on_fatal(error)
        if self.alive:
            self._world.checker.observe(self)

    def die(self) -> None:
        """The process, its engine and whatever was on its way inside are gone."""
        if self.alive:
            self.alive = False
            self.driver.stop()
            self.store.die()
            self.lease_until = 0.0
            self.host.process = None
            if self.incoming is not None:
                self.incoming.broken()

    def thaw(self) -> None:
        """It goes on, with everything that came meanwhile."""
        self.paused = False
        backlog = list(self._backlog)
        self._backlog.clear()
        for call, args in backlog:
            self.run(call, *args)

    def maybe(self, site: str) -> None:
        """Here it may die or freeze."""
        self._world.maybe(self, site)

    def receive(self, message: Message) -> None:
        """A message has come in."""
        try:
            self.driver.step(message)
        except PeerError as error:
            raise SafetyViolationError(f"{self.id} refuses {message}: {error}") from error

    def propose(self, batch: list[bytes]) -> None:
        """What a client of the engine here wants."""
        for data, index in zip(batch, self.driver.propose_batch(batch), strict=True):
            self.waiting[index] = self.node.term, data

    def _wake(self) -> None:
        wait_s = self.driver.wake()
        if self.node.role is ServerState.LEADER:
            self.on_contact()
        late_s = WAKE_LATE_S + self._rng.random() * self._world.options.loop_lag_s
        self._world.timeline.after(
            self.host.clock.true_seconds(wait_s) + late_s, self.run, self._wake
        )

    def _call_soon(self, call: Callable[[], None]) -> None:
        lag_s = self._rng.random() * self._world.options.loop_lag_s
        self._world.timeline.after(lag_s, self.run, call)

    def _durable(self, number: int, error: Exception | None) -> None:
        """From the writer's thread: the notice goes to the loop."""
        lag_s = self._rng.random() * self._world.options.loop_lag_s
        self._world.timeline.after(lag_s, self.run, self.driver.on_durable, number, error)

    def _look(self, ready: Ready) -> None:
        self._world.trace.ready(self, ready)
        self._world.checker.ready(self, ready)
        if ready.entries:
            self.maybe("appended")

    # -- DriverEvents --------------------------------------------------------------------------

    def on_soft_state(self, state: SoftState) -> None:
        leading = state.role is ServerState.LEADER
        if not leading or state.term != self.contact.term:
            self.lease_until = 0.0
            self.waiting.clear()  # their outcome is unknown
        if leading and state.term != self.contact.term:
            self.contact.begin(state.term)
            self._open_term(state.term)
            if not self._world.calm:
                self._world.timeline.after(self._rng.choice((0.0, 0.1)), self.run, self._led)
            self.maybe("leads")

    def _led(self) -> None:
        if self.node.role is ServerState.LEADER:
            self._world.on_lead(self)

    def _open_term(self, term: int) -> None:
        try:
            self.driver.propose(encoding.encode(records.TermStarted(term, f"p{self.id}")))
        except CallerError:
            pass  # it is handing leadership over already

    def on_send(self, message: Message) -> None:
        if not self.alive:
            return
        if message.kind is MessageKind.TIMEOUT_NOW:
            self.lease_until = 0.0
        self._world.checker.sent(self, message)
        if message.kind is MessageKind.SNAPSHOT:
            self._world.streams.send(self, message)
        else:
            self._world.network.send(message)
        self.maybe(f"sent {message.kind.name}")

    def on_sent(self) -> None: ...

    def batch(self, ready: Ready) -> WriteBatch:
        install = None
        if ready.snapshot is not None:
            assert self.incoming is not None, "the core installs only what was received"
            install = SnapshotInstall(ready.snapshot, self.incoming.chunks_of(ready.snapshot))
        applied = ready.committed[-1].index if ready.committed else None
        compact_to = None
        if applied is not None and self._rng.random() < self._world.options.compact:
            first, last = self.store.first_index(), self.store.applied()
            compact_to = self._rng.randint(first, last) if first <= last else None
        return WriteBatch(
            number=ready.number,
            snapshot=install,
            hard_state=ready.hard_state,
            entries=ready.entries,
            apply=ready.committed,
            applied_index=applied,
            compact_to=compact_to,
            must_sync=ready.must_sync,
        )

    def on_read(self, context: bytes, index: int) -> None: ...

    def on_contact(self) -> None:
        self.lease_until = self.driver.certain_until()
        self._world.checker.lease_extended(self)

    def on_committed(self, entries: tuple[Entry, ...]) -> None:
        if not self.alive:
            return
        self._world.checker.will_apply(self, entries)
        for entry in entries:
            term, data = self.waiting.pop(entry.index, (0, b""))
            if (term, data) == (entry.term, entry.data):
                self._world.checker.acknowledged = entry.index

    def on_applied(self, index: int) -> None:
        self.maybe("applied")

    def on_snapshot_installed(self, meta: SnapshotMeta) -> None:
        self.fed = meta.index
        if self.incoming is not None:
            self.incoming.installed(meta)
        self.maybe("snapshot_installed")

    def on_fatal(self, error: BaseException) -> None:
        damaged = bool(self.host.disk.damaged)
        if isinstance(error, DiskFailed) or (isinstance(error, CorruptData) and damaged):
            self._world.failed(self, error)
        elif isinstance(error, LogCorruptionError | CorruptData):
            raise SafetyViolationError(f"{self.id} finds its log damaged: {error}") from error
        else:
            raise error


def _config(world: World, peer_id: int) -> Config:
    options = world.options
    return Config(
        peer_id=peer_id,
        election_ticks=options.election_ticks,
        heartbeat_ticks=options.heartbeat_ticks,
        pre_vote=options.pre_vote,
        check_quorum=options.check_quorum,
        prompt_step_down=options.prompt_step_down,
        max_append_bytes=options.max_append_bytes,
        max_inflight_messages=options.max_inflight_messages,
        max_inflight_bytes=max(options.max_append_bytes, 4_000),
        max_entry_bytes=min(options.max_uncommitted_bytes, 1 << 20),
        max_uncommitted_bytes=options.max_uncommitted_bytes,
        max_applying_bytes=options.max_applying_bytes,
        apply_unpersisted=options.apply_unpersisted,
        priority=options.priorities[peer_id % len(options.priorities)],
        promotion_lag_ticks=options.promotion_lag_ticks,
        disk_patience_ticks=60,
    )


def new_host(world: World, peer_id: int, membership: Membership) -> SimPeer:
    """A host with an empty disk and a clock of its own."""
    options, rng = world.options, world.rng
    disk = SimDisk(peer_id, membership, lying=options.control is not None and options.control.lies)
    clock = HostClock(world.timeline, rng.uniform(1e3, 1e6), rng.uniform(1.0, options.rate_max))
    return SimPeer(peer_id, disk, clock)
