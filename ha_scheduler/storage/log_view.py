"""The settled log in memory: the reads of the core, mostly without the disk.

Guarantee: answers follow from the settled batches alone. Terms are kept for the whole log (as runs:
a log has few), the newest entries up to a number of bytes; older ones are fetched from the store.

Order: a store calls ``settle`` with each durable batch, in order. ``BatchGuard`` keeps applied
entries from being replaced, so a fetch below the newest entries races with the writer's compaction
only, and raises ``CompactedError`` then.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from ha_scheduler.raft.errors import CompactedError, UnavailableError
from ha_scheduler.raft.messages import Entry, HardState, Membership, SnapshotMeta, entry_size
from ha_scheduler.raft.storage import limit_size
from ha_scheduler.storage.applying import applied_after
from ha_scheduler.storage.port import WriteBatch

RECENT_BYTES_MAX = 64 * 1024 * 1024  # followers and the engine rarely lag by more

#: Entries of [lo, hi) within some bytes, at least one. Raises ``CompactedError``.
Fetch = Callable[[int, int, int], Sequence[Entry]]


class RecentEntries:
    """The newest entries without a gap, as many as fit."""

    def __init__(self, bytes_max: int) -> None:
        self._entries: dict[int, Entry] = {}
        self._bytes = 0
        self._bytes_max = bytes_max
        self.first = 1  # equal to ``end`` if there are none
        self.end = 1

    def append(self, entry: Entry) -> None:
        """Append one entry; it replaces the suffix from its index on."""
        self._cut(entry.index)
        if entry.index != self.end:
            self.clear(entry.index)
        self._entries[entry.index] = entry
        self._bytes += entry_size(entry)
        self.end = entry.index + 1
        while self._bytes > self._bytes_max and self.first < self.end:
            self.drop_below(self.first + 1)

    def drop_below(self, index: int) -> None:
        while self.first < min(index, self.end):
            self._bytes -= entry_size(self._entries.pop(self.first))
            self.first += 1

    def clear(self, next_index: int) -> None:
        """Drop all; ``next_index`` comes next."""
        self._entries.clear()
        self._bytes = 0
        self.first = self.end = next_index

    def read(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries of [lo, hi) within ``max_bytes``, but at least one if there is any."""
        found: list[Entry] = []
        for index in range(lo, hi):
            entry = self._entries[index]
            max_bytes -= entry_size(entry)
            if max_bytes < 0 and found:
                break
            found.append(entry)
        return found

    def _cut(self, index: int) -> None:
        while self.end > max(index, self.first):
            self.end -= 1
            self._bytes -= entry_size(self._entries.pop(self.end))


class LogView:
    """A ``LogReader`` over settled batches."""

    def __init__(
        self,
        hard_state: HardState,
        applied: SnapshotMeta,
        compacted: tuple[int, int],
        fetch: Fetch,
        recent_bytes_max: int = RECENT_BYTES_MAX,
    ) -> None:
        """``compacted``: index and term of the entry before the first."""
        self._hard_state = hard_state
        self._applied = applied
        self._compacted, self._compacted_term = compacted
        self._last = self._compacted
        self._run_starts: list[int] = []
        self._run_terms: list[int] = []
        self._fetch = fetch
        self._recent = RecentEntries(recent_bytes_max)
        self._recent.clear(self._last + 1)

    def initial_state(self) -> tuple[HardState, Membership]:
        return self._hard_state, self._applied.membership

    def first_index(self) -> int:
        return self._compacted + 1

    def last_index(self) -> int:
        return self._last

    def applied(self) -> int:
        return self._applied.index

    def snapshot(self) -> SnapshotMeta:
        return self._applied

    def term(self, index: int) -> int:
        if index == self._compacted:
            return self._compacted_term
        self._check_range(index, index + 1)
        return self._run_terms[bisect_right(self._run_starts, index) - 1]

    def entries(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]:
        self._check_range(lo, hi)
        if lo >= self._recent.first:
            return self._recent.read(lo, hi, max_bytes)
        old = self._fetch(lo, min(hi, self._recent.first), max_bytes)
        if hi <= self._recent.first or lo + len(old) < self._recent.first:
            return old
        newer = self._recent.read(self._recent.first, hi, max_bytes)
        return limit_size([*old, *newer], max_bytes)

    def skip(self, last: int, terms: Iterable[tuple[int, int]]) -> None:
        """Entries up to ``last`` were durable before this process; they stay on the disk.

        ``terms``: where each of their terms begins, and the term.
        """
        for start, term in terms:
            self._run_starts.append(start)
            self._run_terms.append(term)
        self._last = last
        self._recent.clear(last + 1)

    def load(self, entry: Entry) -> None:
        """Append a durable entry."""
        while self._run_starts and self._run_starts[-1] >= entry.index:
            self._run_starts.pop()
            self._run_terms.pop()
        if not self._run_terms or self._run_terms[-1] != entry.term:
            self._run_starts.append(entry.index)
            self._run_terms.append(entry.term)
        self._recent.append(entry)
        self._last = entry.index

    def settle(self, batch: WriteBatch) -> None:
        if batch.snapshot is not None:
            self._install(batch.snapshot.meta)
        if batch.hard_state is not None:
            self._hard_state = batch.hard_state
        for entry in batch.entries:
            self.load(entry)
        if batch.apply:
            self._applied = applied_after(batch, self._applied)
        if batch.compact_to is not None:
            self._compact(batch.compact_to)

    def _install(self, meta: SnapshotMeta) -> None:
        self._applied = meta
        self._compacted = self._last = meta.index
        self._compacted_term = meta.term
        self._run_starts.clear()
        self._run_terms.clear()
        self._recent.clear(meta.index + 1)

    def _compact(self, index: int) -> None:
        if index <= self._compacted:
            return
        self._compacted_term = self.term(index)
        self._compacted = index
        # Keep the run that the first remaining entry belongs to.
        done = max(0, bisect_right(self._run_starts, index + 1) - 1)
        del self._run_starts[:done]
        del self._run_terms[:done]
        self._recent.drop_below(index + 1)

    def _check_range(self, lo: int, hi: int) -> None:
        if lo <= self._compacted:
            raise CompactedError(f"entry {lo} is compacted, first is {self._compacted + 1}")
        if hi > self._last + 1:
            raise UnavailableError(f"entry {hi - 1} is beyond the last, {self._last}")
