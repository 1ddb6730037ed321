"""When the log is compacted, and up to which index. Pure: appended entries in, an index out.

Guarantee: never past the applied index. Below the hard limits, never past a live follower or the
own engine: a snapshot for them costs more than the disk. Above a hard limit the log is cut anyway,
because a full disk stops this peer. The limit on bytes follows the free space at the start: the log
takes half of it at most.

The store deletes the chosen rows a few at a time; here they count as gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ha_scheduler.raft.messages import Entry, entry_size
from ha_scheduler.storage.port import Space

ENTRIES_MAX = 50_000  # above it the log is compacted
BYTES_MAX = 256 * 1024 * 1024
KEEP_ENTRIES = 10_000  # for a peer that was away for a moment
KEEP_BYTES = 64 * 1024 * 1024
HARD_FACTOR = 4  # times the limits above: then slow readers do not count
ROOM_SHARE = 2 * HARD_FACTOR  # the log takes at most the free space divided by this
BUCKET_ENTRIES = 512  # accounted together
BUCKET_BYTES = 1024 * 1024
OLD_BUCKETS_MAX = 1000  # for the log of an earlier run


@dataclass(slots=True)
class _Bucket:
    """Consecutive entries: the index of the last, how many, and their bytes."""

    last: int
    entries: int
    size: int


class Compaction:
    """Sizes of the log, in buckets, oldest first."""

    def __init__(self, first_index: int, last_index: int, space: Space) -> None:
        """``space``: at the start."""
        self._bytes_max = min(BYTES_MAX, (space.log_bytes + space.room_bytes) // ROOM_SHARE)
        self._keep_bytes = min(KEEP_BYTES, self._bytes_max // 4)
        self._buckets: deque[_Bucket] = deque()
        self.entries = self.size = 0  # kept, and their bytes; of an earlier run: those on disk
        self._load(first_index, last_index, space.log_bytes)

    def appended(self, entries: Sequence[Entry]) -> None:
        """Appended entries; they replace the suffix from the first one's index on."""
        if not entries:
            return
        self._truncate(entries[0].index)
        for entry in entries:
            last = self._buckets[-1] if self._buckets else None
            if last is None or last.entries >= BUCKET_ENTRIES or last.size >= BUCKET_BYTES:
                last = _Bucket(entry.index, 0, 0)
                self._buckets.append(last)
            size = entry_size(entry)
            last.last, last.entries, last.size = entry.index, last.entries + 1, last.size + size
            self.entries += 1
            self.size += size

    def restart(self) -> None:
        """A snapshot replaced the log."""
        self._buckets.clear()
        self.entries = self.size = 0

    def choose(self, applied: int, readers: int) -> int | None:
        """The index to compact to, or None. ``readers``: the lowest index of the readers."""
        if not self._exceeds(1):
            return None
        return self._drop_to(applied if self._exceeds(HARD_FACTOR) else min(applied, readers))

    def _exceeds(self, factor: int) -> bool:
        return self.entries > ENTRIES_MAX * factor or self.size > self._bytes_max * factor

    def _drop_to(self, floor: int) -> int | None:
        """Drop the oldest buckets until twice the amount to keep is left."""
        chosen = None
        while self._buckets and self._buckets[0].last <= floor:
            oldest = self._buckets[0]
            entries, size = self.entries - oldest.entries, self.size - oldest.size
            if entries < KEEP_ENTRIES and size < self._keep_bytes:
                break
            self._buckets.popleft()
            chosen, self.entries, self.size = oldest.last, entries, size
            if entries <= KEEP_ENTRIES * 2 and size <= self._keep_bytes * 2:
                break
        return chosen

    def _load(self, first: int, last: int, size: int) -> None:
        """The log of an earlier run: only the sum of its bytes is known."""
        count = last - first + 1
        step = max(BUCKET_ENTRIES, -(-count // OLD_BUCKETS_MAX))
        for start in range(first, last + 1, step):
            entries = min(step, last + 1 - start)
            bucket = _Bucket(start + entries - 1, entries, size * entries // count)
            self._buckets.append(bucket)
            self.entries += entries
            self.size += bucket.size

    def _truncate(self, first: int) -> None:
        while self._buckets and self._buckets[-1].last >= first:
            bucket = self._buckets[-1]
            surplus = min(bucket.last - first + 1, bucket.entries)
            lost = bucket.size * surplus // bucket.entries  # part of it: in proportion
            self.entries -= surplus
            self.size -= lost
            if surplus == bucket.entries:
                self._buckets.pop()
            else:
                bucket.last -= surplus
                bucket.entries -= surplus
                bucket.size -= lost
