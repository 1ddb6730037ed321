"""The driver of the consensus core: the only interpreter of its ``Ready``.

Guarantee, for each ``Ready`` in the order of its number (reasons in ``raft/ready.py``):

1. A loss of leadership takes effect (the lease is revoked) before any message leaves.
2. ``messages`` leave at once, and all but large ones before the store is told to write: its thread
   and this one share an interpreter. ``messages_after_persist`` leave when the batch is durable;
   those of a ``Ready`` that writes nothing wait for the batches before it.
3. Entries, hard state and the effect of committed entries are one batch. Several may be in flight;
   the store commits them in order, as many as there are in one fsync.
4. Committed entries are fed to the engine at once: a majority holds them, whatever the own disk
   still does. Only a write that others wait for goes first.

Time: one tick each ``tick_s`` of the lease's clock (``shared_lease.py``). A daemon that was frozen
makes up for a few ticks only, to hear who leads before it stands for election. All due ticks are
counted *before* a message is taken in; ``lease.py`` rests on that. A simulation injects the clock
and ``call_soon``.

Any error of the store and any contradiction in the log is final: ``on_fatal`` ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ha_scheduler import shared_lease
from ha_scheduler.peer.consensus.lease import LeaderLease
from ha_scheduler.raft.errors import PeerError
from ha_scheduler.raft.membership import MembershipChange
from ha_scheduler.raft.messages import Entry, Message, ServerState, SnapshotMeta
from ha_scheduler.raft.node import RawNode
from ha_scheduler.raft.ready import Ready, SoftState
from ha_scheduler.storage.port import PeerStore, WriteBatch

CATCH_UP_TICKS_MAX = 3  # ticks made up for after a freeze
READIES_MAX = 64  # handled before other work of the loop gets its turn
IN_FLIGHT_MAX = 2048  # batches; the store's queue holds twice as many

logger = logging.getLogger(__name__)


class DriverEvents(Protocol):
    """The effects of the core's decisions."""

    def on_soft_state(self, state: SoftState) -> None: ...

    def on_send(self, message: Message) -> None: ...

    def on_sent(self) -> None:
        """Messages given to ``on_send`` are to leave now."""

    def batch(self, ready: Ready) -> WriteBatch: ...

    def on_contact(self) -> None: ...

    def on_read(self, context: bytes, index: int) -> None:
        """A quorum has answered since ``read(context)``."""

    def on_committed(self, entries: tuple[Entry, ...]) -> None: ...

    def on_applied(self, index: int) -> None: ...

    def on_snapshot_installed(self, meta: SnapshotMeta) -> None: ...

    def on_fatal(self, error: BaseException) -> None: ...


@dataclass(slots=True)
class _InFlight:
    """A ``Ready`` between its submission and its durability."""

    ready: Ready
    durable: bool


class Driver:
    """Owns the core."""

    def __init__(
        self,
        node: RawNode,
        store: PeerStore,
        events: DriverEvents,
        contact: LeaderLease,
        tick_s: float,
        *,
        call_soon: Callable[[Callable[[], None]], object],
        clock: Callable[[], float] = shared_lease.now,
    ) -> None:
        self.node = node
        self.muted = False  # see reconfiguration.py: no message is taken in, and no time passes
        self.tick_gap_s_max = 0.0  # the longest delay of a tick
        self.leader_gap_s_max = 0.0  # the longest silence of one leader
        self.on_commit_s: Callable[[float], None] | None = None  # seconds of a proposal, sampled
        self._timed: tuple[int, float] | None = None  # its index, when it was proposed
        self._leader_heard: tuple[int, float] = (0, 0.0)  # term, when
        self._store = store
        self._events = events
        self._contact = contact
        self._tick_s = tick_s
        self._call_soon = call_soon
        self._clock = clock
        self._ticked_at = clock()
        self._in_flight: deque[_InFlight] = deque()
        self._scheduled = False
        self._stopped = False

    # -- input

    def step(self, message: Message) -> None:
        """Take in a message of another peer. Raises ``PeerError`` if it is malformed."""
        if self._stopped or self.muted:
            return
        self._advance_clock()
        try:
            self.node.step(message)
            self._note_leader(message)
        except PeerError:
            raise
        except Exception as error:  # a core that broke its contract must not go on
            self._fail(error)
            return
        if self.node.role is ServerState.LEADER and self._contact.answered(message):
            self._events.on_contact()
        self._schedule()

    def propose(self, data: bytes) -> int:
        """Append to the log. Returns the index. Raises ``CallerError``."""
        index = self.node.propose(data)
        self._time(index)
        self._schedule()
        return index

    def propose_batch(self, batch: Sequence[bytes]) -> range:
        """Append several, all or none. Returns the indices. Raises ``CallerError``."""
        indices = self.node.propose_batch(batch)
        self._time(indices.stop - 1)
        self._schedule()
        return indices

    def _time(self, index: int) -> None:
        """Measure how long this one takes to commit, if none is being measured."""
        if self._timed is None and self.on_commit_s is not None:
            self._timed = index, self._clock()

    def _timed_commit(self, last: int) -> None:
        if self._timed is None or self._timed[0] > last:
            return
        if self.on_commit_s is not None and self.node.role is ServerState.LEADER:
            self.on_commit_s(self._clock() - self._timed[1])
        self._timed = None

    def read(self, context: bytes) -> None:
        """Have a quorum confirm that we lead; see ``read_index``. Raises ``CallerError``."""
        self.node.read_index(context)
        self._schedule()

    def propose_membership(self, change: MembershipChange) -> int:
        """Append a membership change. Returns its index. Raises ``CallerError``."""
        index = self.node.propose_membership(change)
        self._schedule()
        return index

    def transfer_leadership(self, to: int) -> None:
        self.node.transfer_leadership(to)
        self._schedule()

    def _note_leader(self, message: Message) -> None:
        """Measure a leader's silence, from its first message of the term on."""
        if message.source != self.node.leader or message.term != self.node.term:
            return
        now, (term, heard_at) = self._clock(), self._leader_heard
        if term == message.term:
            self.leader_gap_s_max = max(self.leader_gap_s_max, now - heard_at)
        self._leader_heard = (message.term, now)

    def step_down(self) -> None:
        self.node.step_down()
        self._schedule()

    def report_snapshot(self, peer: int, ok: bool) -> None:
        self.node.report_snapshot(peer, ok)
        self._schedule()

    def report_unreachable(self, peer: int) -> None:
        if not self._stopped:
            self.node.report_unreachable(peer)
            self._schedule()

    def certain_until(self) -> float:
        """The end of our lease, by its clock; 0.0: none."""
        if self._stopped or self.node.role is not ServerState.LEADER:
            return 0.0
        return self._contact.certain_until(self.node.membership.voters, self._clock())

    # -- time

    async def run(self) -> None:
        self._ticked_at = self._clock()
        while not self._stopped:
            wait_s = self.wake()
            await asyncio.sleep(wait_s)

    def wake(self) -> float:
        """Count the due ticks. Returns the seconds until the next one."""
        self._advance_clock()
        self._schedule()
        return max(self._ticked_at + self._tick_s - self._clock(), 0.0)

    def stop(self) -> None:
        """Nothing more leaves this peer."""
        self._stopped = True

    def _advance_clock(self) -> None:
        now = self._clock()
        if self.muted:
            self._ticked_at = now  # nor does it pass all at once later
            return
        due = int((now - self._ticked_at) / self._tick_s)
        if due <= 0:
            return
        self.tick_gap_s_max = max(self.tick_gap_s_max, now - self._ticked_at)
        if due > CATCH_UP_TICKS_MAX:
            self._ticked_at = now - CATCH_UP_TICKS_MAX * self._tick_s
            due = CATCH_UP_TICKS_MAX
        for _ in range(due):
            self._ticked_at += self._tick_s
            self.node.tick()

    # -- Ready into IO

    def _schedule(self) -> None:
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            self._call_soon(self._pump)

    def _pump(self) -> None:
        self._scheduled = False
        try:
            for _ in range(READIES_MAX):
                if self._stopped or not self.node.has_ready():
                    return
                if len(self._in_flight) >= IN_FLIGHT_MAX:
                    return  # the disk is stuck; the next completion goes on
                self._handle(self.node.ready())
        except Exception as error:  # a core or store that broke its contract must not go on
            self._fail(error)
            return
        self._schedule()

    def _handle(self, ready: Ready) -> None:
        if ready.soft_state is not None:
            self._timed = None  # what another leader commits says nothing of our proposals
            self._events.on_soft_state(ready.soft_state)
        self._send(ready.messages)
        self._events.on_sent()
        for state in ready.read_states:
            self._events.on_read(state.context, state.index)
        if ready.must_sync:
            self._write(ready)
        if ready.committed:
            self._timed_commit(ready.committed[-1].index)
            self._events.on_committed(ready.committed)
        if not ready.must_sync:
            self._write(ready)

    def _send(self, messages: tuple[Message, ...]) -> None:
        now = self._clock()
        for message in messages:
            self._contact.sent(message, now)
            self._events.on_send(message)

    def _write(self, ready: Ready) -> None:
        item = _InFlight(ready, durable=not (ready.has_write or ready.committed))
        self._in_flight.append(item)
        if item.durable:
            self._complete()
            return
        self._store.submit(self._events.batch(ready))

    def on_durable(self, number: int, error: BaseException | None) -> None:
        """For the store: all batches up to ``number`` are durable, or one failed for good."""
        if error is not None:
            self._fail(error)
            return
        if self._stopped:
            return
        self._store.settle(number)
        for item in self._in_flight:
            if item.ready.number > number:
                break
            item.durable = True
        try:
            self._complete()
        except Exception as failure:  # likewise, or the store
            self._fail(failure)

    def _complete(self) -> None:
        while self._in_flight and self._in_flight[0].durable and not self._stopped:
            ready = self._in_flight.popleft().ready
            self.node.persisted(ready.number)
            self._send(ready.messages_after_persist)
            if ready.snapshot is not None:
                self._events.on_snapshot_installed(ready.snapshot)
            if ready.committed:
                self.node.applied_to(ready.committed[-1].index)
                self._events.on_applied(ready.committed[-1].index)
        self._events.on_sent()
        self._schedule()

    # -- the end

    def _fail(self, error: BaseException) -> None:
        if not self._stopped:
            self._stopped = True
            self._events.on_fatal(error)
