"""What a client has submitted and no cell has committed yet.

Guarantee: a graph is in the journal from before it is first sent until a leader says that the cell
has committed it, so at any moment everything that was submitted is either in the ledger or here.
Sequence numbers start at 1, are never reused, and name a graph for ever: a graph that arrives twice
is done once.

A fire-and-forget desire has no number. It is kept as long as the graph of its key is, and for
``DESIRE_KEPT_S`` in any case, because the cell commits desires a moment later than graphs.

Pure: no clock and no sending. Thread-safe, because ``submit`` is called in any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from client_replay.errors import JournalFull

JOURNAL_BYTES_MAX = 2 << 30  # serialised graphs; the memory of the user's own process
JOURNAL_ENTRIES_MAX = 1_000_000
DESIRES_MAX = 1_000_000
DESIRE_KEPT_S = 10.0
NOT_SENT = 0

Message = dict[str, Any]


@dataclass(slots=True)
class Entry:
    """One graph. ``message`` is what goes over the wire, its ``ha_sequence`` included."""

    sequence: int
    message: Message
    nbytes: int
    sent_in: int = NOT_SENT  # the connection, counted from 1, on which it was sent last


@dataclass(frozen=True, slots=True)
class _Desire:
    message: Message
    sequence: int  # of the graph that has its keys
    since_s: float


class Journal:
    """The unacknowledged graphs of one session, in the order of their submission."""

    def __init__(
        self, *, bytes_max: int = JOURNAL_BYTES_MAX, entries_max: int = JOURNAL_ENTRIES_MAX
    ) -> None:
        self._bytes_max = bytes_max
        self._entries_max = entries_max
        self._lock = threading.Lock()
        self._entries: dict[int, Entry] = {}  # in order: numbers only grow
        self._desires: list[_Desire] = []
        self._last = 0
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """The size of the graphs held."""
        return self._nbytes

    @property
    def last(self) -> int:
        """The highest number given out."""
        return self._last

    @property
    def floor(self) -> int:
        """Every number up to this one is acknowledged."""
        with self._lock:
            return next(iter(self._entries), self._last + 1) - 1

    def append(self, message: Message, nbytes: int) -> int:
        """Keep ``message``; its sequence number. Raises ``JournalFull`` and keeps nothing."""
        with self._lock:
            self._check_room(nbytes)
            self._last += 1
            message["ha_sequence"] = self._last
            self._entries[self._last] = Entry(self._last, message, nbytes)
            self._nbytes += nbytes
            return self._last

    def _check_room(self, nbytes: int) -> None:
        if self._nbytes + nbytes > self._bytes_max:
            raise JournalFull(
                f"a graph of {nbytes} bytes does not fit into the journal: {len(self._entries)} "
                f"graphs of {self._nbytes} bytes are not committed yet, and it holds at most "
                f"{self._bytes_max} bytes. Wait for the cell, or submit smaller graphs."
            )
        if len(self._entries) >= self._entries_max:
            raise JournalFull(
                f"{len(self._entries)} graphs are not committed yet, and the journal holds no "
                "more. Wait for the cell, or submit fewer, larger graphs (client.map)."
            )

    def get(self, sequence: int) -> Entry | None:
        """The graph with this number, unless it is acknowledged."""
        return self._entries.get(sequence)

    def pending(self) -> list[Entry]:
        """Every unacknowledged graph, in order."""
        with self._lock:
            return list(self._entries.values())

    def committed(self, sequences: Iterable[int]) -> None:
        """The cell has these. Repetitions and unknown numbers are nothing special."""
        with self._lock:
            for sequence in sequences:
                entry = self._entries.pop(sequence, None)
                if entry is not None:
                    self._nbytes -= entry.nbytes

    def forget(self) -> None:
        """Drop everything: the cell was restarted by a user, or is none."""
        with self._lock:
            self._entries.clear()
            self._desires.clear()
            self._nbytes = 0

    def submitted_after(self, sequence: int, key: Any) -> bool:
        """Whether an unacknowledged graph after ``sequence`` asks for ``key``."""
        return any(
            entry.sequence > sequence and key in entry.message["keys"]
            for entry in reversed(self.pending())
        )

    def desire(self, message: Message, now_s: float) -> None:
        """Keep a fire-and-forget desire."""
        keys = message["keys"]
        with self._lock:
            self._prune(now_s)
            of = next(
                (
                    sequence
                    for sequence in reversed(self._entries)
                    if any(key in self._entries[sequence].message["keys"] for key in keys)
                ),
                0,
            )
            if len(self._desires) >= DESIRES_MAX:
                raise JournalFull(f"{DESIRES_MAX} fire-and-forget tasks are not committed yet")
            self._desires.append(_Desire(message, of, now_s))

    def desires(self, now_s: float) -> list[Message]:
        """The fire-and-forget desires to repeat, in order."""
        with self._lock:
            self._prune(now_s)
            return [desire.message for desire in self._desires]

    def _prune(self, now_s: float) -> None:
        # From the front only, so that a thousand desires in a row cost one look each: a later one
        # is not settled much before an earlier one.
        settled = 0
        for desire in self._desires:
            if desire.sequence in self._entries or now_s - desire.since_s < DESIRE_KEPT_S:
                break
            settled += 1
        del self._desires[:settled]
