"""The journal: requests of a client that no cell has committed yet, and what it still wants.

Requests are graphs, cancellations and fire-and-forget desires.

Guarantee: a request is in the journal from before it is first sent until a leader acknowledges its
commit, so each one is in the ledger or here at any moment. Sequence numbers start at 1 and are
never reused, so a request is idempotent. They are sent in order: a cancellation acts on the graphs
before it. Beyond the commit a keeper that lasts has the keys of a graph, until they were fetched or
released.

Order: a request is sent when it is *kept* (``is_kept``). So a later process knows every number that
any leader may have seen, and uses none twice.

Pure: no clock and no sending. Thread-safe, because ``submit`` is called in any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from client_replay.errors import JournalFull
from client_replay.journal.keeper import (
    GRAPH,
    Append,
    Change,
    Clear,
    Delete,
    Hold,
    JournalEntry,
    Keeper,
    Key,
    Message,
    Shrink,
)
from client_replay.journal.memory import MemoryKeeper
from client_replay.journal.wanted import WantedKeys
from ha_scheduler.protocol.client import SEQUENCE

JOURNAL_BYTES_MAX = 2 << 30  # serialised graphs; the memory of the user's own process
JOURNAL_ENTRIES_MAX = 1_000_000
LIMIT = "ha.client.journal-limit"


class NoRoom(JournalFull):
    """Local: there may be room once something has committed; nothing was kept or sent."""

    def __init__(self, message: str, nbytes: int) -> None:
        super().__init__(message)
        self.nbytes = nbytes


class Journal:
    def __init__(
        self,
        keeper: Keeper | None = None,
        *,
        bytes_max: int = JOURNAL_BYTES_MAX,
        entries_max: int = JOURNAL_ENTRIES_MAX,
    ) -> None:
        self._bytes_max = bytes_max
        self._entries_max = entries_max
        self._keeper: Keeper = keeper if keeper is not None else MemoryKeeper()
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)  # an entry has left
        self._entries: dict[int, JournalEntry] = {}  # in order: numbers only grow
        self._number_of: dict[int, int] = {}  # sequence → of the keeper's write
        self._wanted = WantedKeys()
        self._last = 0
        self._nbytes = 0
        self._take_over()
        self._keeper.on_failed = self._failed
        self.on_kept: Callable[[], None] = lambda: None
        self.on_failed: Callable[[list[JournalEntry], Exception], None] = lambda entries, error: (
            None
        )
        self._keeper.on_kept = lambda: self.on_kept()

    def _take_over(self) -> None:
        kept = self._keeper.load()
        self._last = kept.last
        for entry in kept.open:
            self._entries[entry.sequence] = entry
            self._nbytes += entry.nbytes
        for sequence, keys in kept.wanted.items():
            self._wanted.add(sequence, keys)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        return self._nbytes

    @property
    def bytes_max(self) -> int:
        return self._bytes_max

    @property
    def lasts(self) -> bool:
        """Whether another process can go on with it."""
        return self._keeper.lasts

    @property
    def path(self) -> Path | None:
        """Its file, if another process can go on with it."""
        return self._keeper.path

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
        return [entry for entry in self.pending() if not entry.is_graph]

    # ---- what is submitted

    def append(self, message: Message, nbytes: int) -> int:
        """Keep ``message``; returns its number. Raises ``JournalFull`` and keeps nothing."""
        with self._lock:
            self._check_room(nbytes)
            sequence = self._last + 1
            message[SEQUENCE] = sequence
            entry = JournalEntry(sequence, message, nbytes)
            changes: list[Change] = [Append(entry)]
            if self.lasts and entry.is_graph:
                changes += self._moved(sequence, message["keys"])
            number = self._keeper.write(changes)
            if not self._keeper.is_kept(number):
                self._number_of[sequence] = number
            self._last = sequence
            self._entries[sequence] = entry
            self._nbytes += nbytes
            return sequence

    def _moved(self, sequence: int, keys: Iterable[Key]) -> list[Change]:
        drops = self._wanted.add(sequence, keys)
        return [*drops, *(Delete(drop.sequence) for drop in drops if self._is_over(drop.sequence))]

    def _is_over(self, sequence: int) -> bool:
        """Whether a graph has committed, and no key of it is wanted."""
        if not sequence or sequence in self._entries or self._wanted.is_wanted(sequence):
            return False
        self._wanted.forget(sequence)
        return True

    def _check_room(self, nbytes: int) -> None:
        if nbytes > self._bytes_max:
            raise JournalFull(
                f"a graph of {nbytes} bytes never fits into the journal, which holds at most "
                f"{self._bytes_max} bytes ({LIMIT}). Raise that, or submit smaller graphs."
            )
        if self._nbytes + nbytes > self._bytes_max:
            raise NoRoom(
                f"a graph of {nbytes} bytes does not fit into the journal: {len(self._entries)} "
                f"requests of {self._nbytes} bytes are not committed yet, and it holds at most "
                f"{self._bytes_max} bytes ({LIMIT}). Wait for the cell, raise the limit, or "
                f"submit smaller graphs.",
                nbytes,
            )
        if len(self._entries) >= self._entries_max:
            raise NoRoom(
                f"{len(self._entries)} requests are not committed yet, and the journal holds no "
                "more. Wait for the cell, or submit fewer, larger graphs (client.map).",
                nbytes,
            )

    def wait_for_room(self, nbytes: int, timeout_s: float) -> bool:
        """Wait until one more request of this size fits. Returns whether it does."""

        def fits() -> bool:
            room = self._nbytes + nbytes <= self._bytes_max
            return room and len(self._entries) < self._entries_max

        with self._left:
            return self._left.wait_for(fits, timeout_s)

    def is_kept(self, sequence: int) -> bool:
        """Whether the request may be sent."""
        number = self._number_of.get(sequence)
        if number is None:
            return True
        if not self._keeper.is_kept(number):
            return False
        self._number_of.pop(sequence, None)
        return True

    def wait_until_kept(self) -> None:
        """Wait for all that was submitted before. Raises ``JournalUnusable``."""
        with self._lock:
            numbers = list(self._number_of.values())
        if numbers:
            self._keeper.wait(max(numbers))

    def _failed(self, entries: list[JournalEntry], error: Exception) -> None:
        """The keeper could not keep these: they are not sent."""
        self._remove([entry.sequence for entry in entries], keep_keys=False)
        self.on_failed(entries, error)

    # ---- what is wanted

    def hold(self, keys: Iterable[Key]) -> None:
        """The client wants keys without a graph of its own: scattered data, others' futures."""
        if not self.lasts:
            return
        with self._lock:
            new = [key for key in keys if key not in self._wanted]
            if new:
                self._wanted.add(0, new)
                self._keeper.write([Hold(tuple(new))])

    def done_with(self, keys: Iterable[Key]) -> None:
        """These were released, or fetched."""
        if not self.lasts:
            return
        with self._lock:
            changes: list[Change] = []
            for drop in self._wanted.drop(keys):
                over = self._is_over(drop.sequence)
                changes.append(Delete(drop.sequence) if over else drop)
            if changes:
                self._keeper.write(changes)

    def wanted(self) -> list[Key]:
        """The keys that are neither fetched nor released; empty if the keeper does not last."""
        with self._lock:
            return self._wanted.keys()

    # ---- what is open

    def get(self, sequence: int) -> JournalEntry | None:
        """The request, unless it is acknowledged."""
        return self._entries.get(sequence)

    def pending(self) -> list[JournalEntry]:
        with self._lock:
            return list(self._entries.values())

    @property
    def last_kept(self) -> int:
        """All up to this number may be sent."""
        last = self._last
        waiting = [number for number in list(self._number_of) if not self.is_kept(number)]
        return min(waiting, default=last + 1) - 1

    def up_to(self, last: int) -> list[JournalEntry]:
        """What a new stream begins with: of all that is open."""
        return [entry for entry in self.pending() if entry.sequence <= last]

    def committed(self, sequences: Iterable[int]) -> None:
        """The cell has committed these; unknown numbers are ignored."""
        self._remove(sequences, keep_keys=True)

    def _remove(self, sequences: Iterable[int], *, keep_keys: bool) -> None:
        changes: list[Change] = []
        with self._left:
            for sequence in sequences:
                entry = self._entries.pop(sequence, None)
                if entry is None:
                    continue
                self._nbytes -= entry.nbytes
                self._number_of.pop(sequence, None)
                if not keep_keys and self.lasts and entry.is_graph:
                    self._wanted.drop(entry.message["keys"])
                changes.append(self._done(entry))
            if changes and keep_keys:
                self._keeper.write(changes)
            self._left.notify_all()

    def _done(self, entry: JournalEntry) -> Change:
        if not entry.is_graph or not self.lasts or self._is_over(entry.sequence):
            return Delete(entry.sequence)
        return Shrink(entry.sequence, tuple(entry.message["keys"]))

    def forget(self) -> None:
        """Drop everything: the user restarted the cell, or the scheduler is none."""
        with self._left:
            self._entries.clear()
            self._number_of.clear()
            self._wanted.clear()
            self._nbytes = 0
            self._keeper.write([Clear(self._last)])
            self._left.notify_all()

    def submitted_after(self, sequence: int) -> set[Any]:
        """The keys of unacknowledged graphs after ``sequence``."""
        later = [entry.message for entry in self.pending() if entry.sequence > sequence]
        return {key for message in later if message["op"] == GRAPH for key in message["keys"]}

    # ---- whose it is

    def require_owner(self) -> None:
        """Raise ``JournalFenced`` if another process has taken it over."""
        self._keeper.require_owner()

    def go_on_after(self, last: int) -> None:
        """Another process has used the numbers up to this one."""
        with self._lock:
            self._last = max(self._last, last)

    # ---- the end

    def close(self) -> None:
        """The client has said goodbye: nothing of it is to go on. Idempotent."""
        if self.lasts and not self._keeper_is_gone():
            self.forget()
        self._keeper.close(remove=True)

    def leave(self) -> None:
        """Another process may go on. Idempotent."""
        self._keeper.close()

    def abandon(self) -> None:
        """This process writes to it no more."""
        self._keeper.abandon()

    def _keeper_is_gone(self) -> bool:
        return bool(getattr(self._keeper, "closed", False))
