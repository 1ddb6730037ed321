"""The journal: requests of a client that no cell has committed yet.

Requests are graphs, cancellations and fire-and-forget desires.

Guarantee: a request is in the journal from before it is first sent until a leader acknowledges its
commit, so each one is in the ledger or here at any moment. Sequence numbers start at 1 and are
never reused, so a request is idempotent. They are sent in order: a cancellation acts on the graphs
before it.

Pure: no clock and no sending. Thread-safe, because ``submit`` is called in any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from client_replay.errors import JournalFull
from ha_scheduler.protocol.client import SEQUENCE

JOURNAL_BYTES_MAX = 2 << 30  # serialised graphs; the memory of the user's own process
JOURNAL_ENTRIES_MAX = 1_000_000
NOT_SENT = 0

GRAPH = "update-graph"

Message = dict[str, Any]


@dataclass(slots=True)
class JournalEntry:
    """One request. ``message``: as it is sent, its number included."""

    sequence: int
    message: Message
    nbytes: int
    sent_in: int = NOT_SENT  # the connection, counted from 1, on which it was sent last


class Journal:
    def __init__(
        self, *, bytes_max: int = JOURNAL_BYTES_MAX, entries_max: int = JOURNAL_ENTRIES_MAX
    ) -> None:
        self._bytes_max = bytes_max
        self._entries_max = entries_max
        self._lock = threading.Lock()
        self._entries: dict[int, JournalEntry] = {}  # in order: numbers only grow
        self._last = 0
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        return self._nbytes

    @property
    def last(self) -> int:
        return self._last

    @property
    def floor(self) -> int:
        """All numbers up to this one are acknowledged."""
        with self._lock:
            return next(iter(self._entries), self._last + 1) - 1

    @property
    def last_lasting(self) -> int:
        """The highest open number of a request that outlives its client; 0 for none.

        It needs the graphs before it; a graph itself ends with its client.
        """
        return max((entry.sequence for entry in self.lasting()), default=0)

    def lasting(self) -> list[JournalEntry]:
        return [entry for entry in self.pending() if entry.message["op"] != GRAPH]

    def append(self, message: Message, nbytes: int) -> int:
        """Keep ``message``; returns its number. Raises ``JournalFull`` and keeps nothing."""
        with self._lock:
            self._check_room(nbytes)
            self._last += 1
            message[SEQUENCE] = self._last
            self._entries[self._last] = JournalEntry(self._last, message, nbytes)
            self._nbytes += nbytes
            return self._last

    def _check_room(self, nbytes: int) -> None:
        if self._nbytes + nbytes > self._bytes_max:
            raise JournalFull(
                f"a graph of {nbytes} bytes does not fit into the journal: {len(self._entries)} "
                f"requests of {self._nbytes} bytes are not committed yet, and it holds at most "
                f"{self._bytes_max} bytes. Wait for the cell, or submit smaller graphs."
            )
        if len(self._entries) >= self._entries_max:
            raise JournalFull(
                f"{len(self._entries)} requests are not committed yet, and the journal holds no "
                "more. Wait for the cell, or submit fewer, larger graphs (client.map)."
            )

    def get(self, sequence: int) -> JournalEntry | None:
        """The request, unless it is acknowledged."""
        return self._entries.get(sequence)

    def pending(self) -> list[JournalEntry]:
        with self._lock:
            return list(self._entries.values())

    def committed(self, sequences: Iterable[int]) -> None:
        """The cell has committed these; unknown numbers are ignored."""
        with self._lock:
            for sequence in sequences:
                entry = self._entries.pop(sequence, None)
                if entry is not None:
                    self._nbytes -= entry.nbytes

    def forget(self) -> None:
        """Drop everything: the user restarted the cell, or the scheduler is none."""
        with self._lock:
            self._entries.clear()
            self._nbytes = 0

    def submitted_after(self, sequence: int) -> set[Any]:
        """The keys of unacknowledged graphs after ``sequence``."""
        later = [entry.message for entry in self.pending() if entry.sequence > sequence]
        return {key for message in later if message["op"] == GRAPH for key in message["keys"]}
