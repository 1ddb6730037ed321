"""How much of the log is kept. Pure: appended entries in, an index to compact to out.

Guarantee: never past what is applied; below the hard limits never past what a live follower or the
own engine still has to read, since a snapshot would cost more than the disk. Above a hard limit the
log is cut anyway: a full disk stops this peer. The byte limit follows the room at the start: the
log may take half of it.

The store deletes chosen entries a few rows at a time; here they count as gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ha_scheduler.raft.messages import Entry, entry_size
from ha_scheduler.storage.port import Space

ENTRIES_MAX = 50_000  # above it the log is compacted
BYTES_MAX = 256 * 1024 * 1024
KEEP_ENTRIES = 10_000  # what a peer that was away for a moment catches up with
KEEP_BYTES = 64 * 1024 * 1024
HARD_FACTOR = 4  # times the limits above: then a slow reader is given up
ROOM_SHARE = 2 * HARD_FACTOR  # the part of the room that ``BYTES_MAX`` may be
BUCKET_ENTRIES = 512  # accounted together
BUCKET_BYTES = 1024 * 1024
OLD_BUCKETS_MAX = 1000  # for what an earlier run left behind


@dataclass(slots=True)
class _Bucket:
    """Consecutive entries: the index of the last, how many, and their bytes."""

    last: int
    entries: int
    size: int


class Compaction:
    """Sizes of the log, in buckets, oldest first."""

    def __init__(self, first_index: int, last_index: int, space: Space) -> None:
        """``space``: what the log takes, and what is left, at the start."""
        self._bytes_max = min(BYTES_MAX, (space.log_bytes + space.room_bytes) // ROOM_SHARE)
        self._keep_bytes = min(KEEP_BYTES, self._bytes_max // 4)
        self._buckets: deque[_Bucket] = deque()
        self._entries = self._bytes = 0
        self._load(first_index, last_index, space.log_bytes)

    @property
    def entries(self) -> int:
        return self._entries

    @property
    def size(self) -> int:
        """Bytes; of an earlier run's entries, what they take on the disk."""
        return self._bytes

    def appended(self, entries: Sequence[Entry]) -> None:
        """These were written, and replace everything from the first of them on."""
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
            self._entries += 1
            self._bytes += size

    def restart(self) -> None:
        """A snapshot replaced the log."""
        self._buckets.clear()
        self._entries = self._bytes = 0

    def choose(self, applied: int, readers: int) -> int | None:
        """The index to compact to, or None. ``readers``: all of them have read up to there."""
        if not self._exceeds(1):
            return None
        return self._drop_to(applied if self._exceeds(HARD_FACTOR) else min(applied, readers))

    def _exceeds(self, factor: int) -> bool:
        return self._entries > ENTRIES_MAX * factor or self._bytes > self._bytes_max * factor

    def _drop_to(self, floor: int) -> int | None:
        """Drop the oldest until twice of what is to be kept is left."""
        chosen = None
        while self._buckets and self._buckets[0].last <= floor:
            oldest = self._buckets[0]
            entries, size = self._entries - oldest.entries, self._bytes - oldest.size
            if entries < KEEP_ENTRIES and size < self._keep_bytes:
                break
            self._buckets.popleft()
            chosen, self._entries, self._bytes = oldest.last, entries, size
            if entries <= KEEP_ENTRIES * 2 and size <= self._keep_bytes * 2:
                break
        return chosen

    def _load(self, first: int, last: int, size: int) -> None:
        """Entries of an earlier run: of their bytes only the sum is known."""
        count = last - first + 1
        step = max(BUCKET_ENTRIES, -(-count // OLD_BUCKETS_MAX))
        for start in range(first, last + 1, step):
            entries = min(step, last + 1 - start)
            bucket = _Bucket(start + entries - 1, entries, size * entries // count)
            self._buckets.append(bucket)
            self._entries += entries
            self._bytes += bucket.size

    def _truncate(self, first: int) -> None:
        while self._buckets and self._buckets[-1].last >= first:
            bucket = self._buckets[-1]
            surplus = min(bucket.last - first + 1, bucket.entries)
            lost = bucket.size * surplus // bucket.entries  # part of it: in proportion
            self._entries -= surplus
            self._bytes -= lost
            if surplus == bucket.entries:
                self._buckets.pop()
            else:
                bucket.last -= surplus
                bucket.entries -= surplus
                bucket.size -= lost
