"""Linearizable reads without writing to the log (thesis 6.4).

The guarantee: a read is answered with an index at least as new as every entry committed when it was
asked for. The ordering, on the leader:

1. it has committed an entry of its own term (before, its commit index may be stale);
2. the read takes the commit index, and *then* a new round of heartbeats begins;
3. a quorum answers that round or a later one, so no newer leader existed at step 2.

All reads between two rounds share one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .messages import PeerId

MAX_PENDING_READS = 65_536  # of one leader; further ones are dropped, and their callers time out


@dataclass(frozen=True, slots=True)
class PendingRead:
    """A read, with its answer for when ``round`` is confirmed."""

    source: PeerId
    context: bytes
    index: int = 0
    round: int = 0


class ReadQueue:
    """The unanswered reads of a leader."""

    __slots__ = ("_unconfirmed", "_unplaced")

    def __init__(self) -> None:
        self._unplaced: list[PendingRead] = []  # no round begun for them yet
        self._unconfirmed: deque[PendingRead] = deque()

    def __len__(self) -> int:
        return len(self._unplaced) + len(self._unconfirmed)

    def ask(self, source: PeerId, context: bytes) -> bool:
        """Queue a read. False: too many are waiting."""
        if len(self) >= MAX_PENDING_READS:
            return False
        self._unplaced.append(PendingRead(source, context))
        return True

    @property
    def wants_round(self) -> bool:
        return bool(self._unplaced)

    def place(self, commit: int, round_: int) -> None:
        """The round that begins now serves every read so far."""
        for read in self._unplaced:
            self._unconfirmed.append(PendingRead(read.source, read.context, commit, round_))
        self._unplaced.clear()

    def confirm(self, round_: int) -> list[PendingRead]:
        """A quorum answered that round: the reads it served, in order."""
        done = []
        while self._unconfirmed and self._unconfirmed[0].round <= round_:
            done.append(self._unconfirmed.popleft())
        return done
