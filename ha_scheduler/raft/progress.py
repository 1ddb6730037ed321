"""The leader's view of one follower, with flow control.

The guarantee: ``match`` never exceeds what the follower has durably acknowledged in this term, so
counting it is safe; ``next`` is a guess, corrected by rejections. Flow control bounds the
unanswered messages, so a dead follower costs bounded memory.

=========  ==================================================  ==============================
state      meaning                                             ends when
=========  ==================================================  ==============================
PROBE      unsure where the logs agree: one append at a time    an append is accepted
REPLICATE  logs agree: appends are pipelined ahead of the acks  an append is rejected or lost
SNAPSHOT   needs compacted entries: nothing is sent             the snapshot arrived or failed
=========  ==================================================  ==============================
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from .errors import InvariantViolationError
from .messages import PeerId

NEVER = -(2**62)  # a tick that proves no contact


class ProgressState(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Inflights:
    """Unacknowledged appends: a window bounded by messages and by bytes."""

    __slots__ = ("_bytes", "_max_bytes", "_max_messages", "_window")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._window: deque[tuple[int, int]] = deque()  # last index, bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._window)

    @property
    def full(self) -> bool:
        return len(self._window) >= self._max_messages or self._bytes >= self._max_bytes

    def add(self, last_index: int, size: int) -> None:
        self._window.append((last_index, size))
        self._bytes += size

    def acknowledge(self, index: int) -> None:
        """Everything up to ``index`` arrived."""
        while self._window and self._window[0][0] <= index:
            self._bytes -= self._window.popleft()[1]

    def clear(self) -> None:
        self._window.clear()
        self._bytes = 0


@dataclass(frozen=True, slots=True)
class ProgressView:
    """A follower's progress at one moment."""

    peer: PeerId
    state: ProgressState
    match: int
    next: int
    paused: bool
    recently_active: bool
    inflight: int
    inflight_full: bool
    pending_snapshot: int
    learner: bool


class Progress:
    """Replication state of one follower, for one term."""

    __slots__ = (
        "acked_round",
        "acked_tick",
        "incarnation",
        "inflights",
        "match",
        "next",
        "pending_snapshot",
        "recently_active",
        "sent_commit",
        "since_round",
        "state",
        "waiting",
    )

    def __init__(self, next_index: int, inflights: Inflights, since_round: int = 1) -> None:
        self.state = ProgressState.PROBE
        self.match = 0
        self.next = next_index
        self.sent_commit = 0  # the highest commit index sent to it
        self.pending_snapshot = 0
        self.waiting = False  # flow is paused until a response, or a heartbeat's response
        self.recently_active = False
        self.since_round = since_round  # it is a member from this round on
        self.acked_round = 0  # newest heartbeat round it answered
        self.acked_tick = NEVER  # leader's tick when the newest answered message was *sent*
        self.incarnation = 0  # of its last answer
        self.inflights = inflights

    @property
    def paused(self) -> bool:
        return self.state is ProgressState.SNAPSHOT or self.waiting

    def _become(self, state: ProgressState) -> None:
        self.state = state
        self.pending_snapshot = 0
        self.waiting = False
        self.inflights.clear()

    def become_probe(self) -> None:
        """Find the point of agreement again, from ``match`` or the snapshot."""
        floor = self.pending_snapshot if self.state is ProgressState.SNAPSHOT else 0
        self._become(ProgressState.PROBE)
        self.next = max(self.match, floor) + 1
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        self._become(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        self._become(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def heard(self, round_: int, tick: int, incarnation: int) -> None:
        """A response: the follower was alive when the answered message was sent."""
        self.recently_active = True
        self.incarnation = incarnation
        self.acked_round = max(self.acked_round, round_)
        self.acked_tick = max(self.acked_tick, tick)

    def accepted(self, index: int) -> bool:
        """The follower has the log up to ``index``. Returns whether ``match`` moved."""
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        self.waiting = False
        return True

    def rejected(self, index: int, hint: int) -> bool:
        """An append after ``index`` was rejected. False: a stale rejection."""
        if self.state is ProgressState.REPLICATE:
            if index <= self.match:
                return False
            self.next = self.match + 1
        else:
            if self.next - 1 != index:
                return False
            self.next = max(min(index, hint + 1), self.match + 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self.waiting = False
        return True

    def sent(self, count: int, size: int, commit: int) -> None:
        """An append with ``count`` entries left."""
        if self.state is ProgressState.REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, size)
            self.waiting = self.inflights.full
        elif count:
            self.waiting = True
        self.sent_commit = max(self.sent_commit, commit)

    def could_learn_commit(self, commit: int) -> bool:
        """Whether sending the commit index now would advance its own."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    def view(self, peer: PeerId, *, learner: bool) -> ProgressView:
        return ProgressView(
            peer=peer,
            state=self.state,
            match=self.match,
            next=self.next,
            paused=self.paused,
            recently_active=self.recently_active,
            inflight=len(self.inflights),
            inflight_full=self.inflights.full,
            pending_snapshot=self.pending_snapshot,
            learner=learner,
        )

    def check_invariants(self, last_index: int) -> None:
        if not self.match < self.next <= last_index + 1 or self.match > last_index:
            raise InvariantViolationError(
                f"match {self.match}, next {self.next} are out of order (last {last_index})"
            )
        if len(self.inflights) and self.state is not ProgressState.REPLICATE:
            raise InvariantViolationError(f"inflight appends in state {self.state.name}")
