"""How much of the log is kept. Pure: what was appended goes in, an index to compact to comes out.

Guarantee: never past what is applied, and, below the hard limits, never past what a live follower
or the own engine still has to read: bringing those up by a snapshot costs more than the disk.
Above a hard limit the log is cut anyway, because a full disk stops this peer altogether.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ha_scheduler.raft.messages import Entry, entry_size

ENTRIES_MAX = 50_000  # above it the log is compacted
BYTES_MAX = 256 * 1024 * 1024
KEEP_ENTRIES = 10_000  # what a peer that was away for a moment catches up with
KEEP_BYTES = 64 * 1024 * 1024
HARD_FACTOR = 4  # times the limits above: then a slow reader is given up
BUCKET_ENTRIES = 512  # accounted together
BUCKET_BYTES = 1024 * 1024


class Compaction:
    """Sizes of the log, in buckets, oldest first."""

    def __init__(self, first_index: int, last_index: int) -> None:
        self._first = first_index
        self._buckets: deque[list[int]] = deque()  # [last index, entries, bytes]
        if last_index >= first_index:
            # What an earlier run left behind: its entries are known, its bytes are not.
            self._buckets.append([last_index, last_index - first_index + 1, 0])
        self._entries = max(last_index - first_index + 1, 0)
        self._bytes = 0

    def appended(self, entries: Sequence[Entry]) -> None:
        """These were written, replacing whatever stood at or after the first of them."""
        if not entries:
            return
        self._truncate(entries[0].index)
        for entry in entries:
            size = entry_size(entry)
            last = self._buckets[-1] if self._buckets else None
            if last is None or last[1] >= BUCKET_ENTRIES or last[2] >= BUCKET_BYTES:
                last = [entry.index, 0, 0]
                self._buckets.append(last)
            last[0], last[1], last[2] = entry.index, last[1] + 1, last[2] + size
            self._entries += 1
            self._bytes += size

    def restart(self, index: int) -> None:
        """A snapshot replaced the log up to ``index``."""
        self._buckets.clear()
        self._first, self._entries, self._bytes = index + 1, 0, 0

    def choose(self, applied: int, readers: int) -> int | None:
        """The index to compact to, or None. ``readers``: all of them have read up to there."""
        if self._entries <= ENTRIES_MAX and self._bytes <= BYTES_MAX:
            return None
        hard = self._entries > ENTRIES_MAX * HARD_FACTOR or self._bytes > BYTES_MAX * HARD_FACTOR
        floor = applied if hard else min(applied, readers)
        return self._drop_to(floor)

    def _drop_to(self, floor: int) -> int | None:
        chosen = None
        while self._buckets and self._buckets[0][0] <= floor:
            _, entries, size = self._buckets[0]
            if self._entries - entries < KEEP_ENTRIES and self._bytes - size < KEEP_BYTES:
                break
            chosen = self._buckets.popleft()[0]
            self._entries -= entries
            self._bytes -= size
            if self._entries <= KEEP_ENTRIES * 2 and self._bytes <= KEEP_BYTES * 2:
                break
        return chosen

    def _truncate(self, first: int) -> None:
        while self._buckets and self._buckets[-1][0] >= first:
            bucket = self._buckets[-1]
            surplus = bucket[0] - first + 1
            if surplus < bucket[1]:  # part of a bucket: its bytes shrink in proportion
                lost = bucket[2] * surplus // bucket[1]
                bucket[0], bucket[1], bucket[2] = first - 1, bucket[1] - surplus, bucket[2] - lost
                self._entries, self._bytes = self._entries - surplus, self._bytes - lost
                return
            self._buckets.pop()
            self._entries -= bucket[1]
            self._bytes -= bucket[2]
