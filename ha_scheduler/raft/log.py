"""The log of the core: durable entries, and on top those in flight to the disk.

The guarantee: an index counts as durable only when the very entry now at that index is known to be
on disk. Writes complete in the order of their numbers, and a truncation lowers what every write in
flight may vouch for. So a late completion of overwritten entries marks nothing durable, even if the
overwriting entry was itself overwritten by the original one (the ABA case).

Invariants: ``applied <= applying <= commit <= last_index`` and ``durable_index <= last_index``; the
former only grow.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import CompactedError, InvariantViolationError, LogCorruptionError, UnavailableError
from .messages import Entry, SnapshotMeta, entry_size
from .storage import LogReader, limit_size


@dataclass(slots=True)
class _Write:
    """One `Ready` in flight to the disk, and the index that its completion makes durable."""

    number: int
    vouches_for: int
    snapshot: SnapshotMeta | None


class RaftLog:
    """Durable entries from a `LogReader`, newer ones from memory, and the cursors over both."""

    def __init__(
        self,
        stable: LogReader,
        *,
        commit: int,
        applied: int,
        apply_unpersisted: bool,
        max_applying_bytes: int,
    ) -> None:
        self._stable = stable
        self._apply_unpersisted = apply_unpersisted
        self._max_applying_bytes = max_applying_bytes
        self._last = stable.last_index()
        self._tail: list[Entry] = []  # entries not known to be durable
        self._offset = self._last + 1  # index of _tail[0]
        self._unhanded = self._offset  # first index no Ready has carried yet
        self._snapshot: SnapshotMeta | None = None  # received, not known to be installed
        self._snapshot_handed = False
        self._writes: deque[_Write] = deque()
        self._applying_batches: deque[tuple[int, int]] = deque()  # last index, bytes
        self._applying_bytes = 0
        applied = max(applied, stable.first_index() - 1)
        commit = max(commit, applied)  # applied entries were committed; a commit index may be lost
        if commit > self._last:
            raise LogCorruptionError(
                f"storage has commit {commit} and applied {applied} with a log that ends at "
                f"{self._last}: was the log truncated or lost? Replace this peer's data"
            )
        self.commit = commit
        self.applying = applied
        self.applied = applied

    # -- reading ---------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        return self._stable.first_index() if self._snapshot is None else self._snapshot.index + 1

    @property
    def last_index(self) -> int:
        return self._last

    @property
    def last_term(self) -> int:
        return self._tail[-1].term if self._tail else self.term(self._last)

    @property
    def durable_index(self) -> int:
        """Everything up to here is on this peer's disk; 0 while a snapshot is on its way to it."""
        return 0 if self._snapshot is not None else self._offset - 1

    @property
    def has_pending_snapshot(self) -> bool:
        return self._snapshot is not None

    def snapshot(self) -> SnapshotMeta | None:
        """The snapshot for a follower that needs compacted entries, if there is any.

        For leaders: a peer with a snapshot in flight to its own disk does not stand for election.
        """
        return self._stable.snapshot()

    def term(self, index: int) -> int:
        if index >= self._offset:
            if index > self._last:
                raise UnavailableError(f"entry {index} is beyond the last, {self._last}")
            return self._tail[index - self._offset].term
        if self._snapshot is None:
            return self._stable.term(index)
        if index == self._snapshot.index:
            return self._snapshot.term
        raise CompactedError(f"entry {index} is replaced by snapshot {self._snapshot.index}")

    def matches(self, index: int, term: int) -> bool:
        """Whether the entry at ``index`` is the one of ``term``."""
        try:
            return self.term(index) == term
        except (CompactedError, UnavailableError):
            return False

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log with this end is at least as up to date as this one (3.6.1)."""
        return (last_term, last_index) >= (self.last_term, self._last)

    def entries(self, lo: int, hi: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries of [lo, hi) within ``max_bytes``, but at least one if there is any."""
        if lo >= hi:
            return ()
        if lo < self.first_index:
            raise CompactedError(f"entry {lo} is compacted, first is {self.first_index}")
        if lo >= self._offset:
            found: Sequence[Entry] = self._tail[lo - self._offset : hi - self._offset]
            return tuple(limit_size(found, max_bytes))
        durable = self._stable.entries(lo, min(hi, self._offset), max_bytes)
        if lo + len(durable) < min(hi, self._offset) or hi <= self._offset:
            return tuple(durable)
        return tuple(limit_size([*durable, *self._tail[: hi - self._offset]], max_bytes))

    def last_index_not_after_term(self, index: int, term: int) -> tuple[int, int]:
        """The newest index up to ``index`` whose term is not above ``term``, and its term.

        No entry in between can match a log whose entry at ``index`` has that term, so a rejected
        append skips a whole term (3.5). Term 0: compacted, or beyond the end. Terms never fall
        along a log, so a few looks find it.
        """
        floor = self.first_index - 1
        if not floor <= index <= self._last:
            return index, 0
        found = floor - 1 + bisect_right(range(floor, index + 1), term, key=self.term)
        return found, self.term(found) if found >= floor else 0

    # -- writing ---------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """Replace everything from the first entry's index on."""
        if not entries:
            return
        first = entries[0].index
        if first <= self.commit:
            raise LogCorruptionError(
                f"entry {first} would replace a committed one (commit {self.commit}): two peers "
                "of this cell disagree about committed history; stop this peer"
            )
        if first <= self._last:
            self._truncate(first)
        self._tail.extend(entries)
        self._last = entries[-1].index

    def _truncate(self, first: int) -> None:
        if first <= self._offset:
            self._tail.clear()
            self._offset = first
        else:
            del self._tail[first - self._offset :]
        self._unhanded = min(self._unhanded, first)
        for write in self._writes:
            write.vouches_for = min(write.vouches_for, first - 1)

    def conflict(self, entries: Sequence[Entry]) -> int:
        """Position of the first entry that this log lacks or contradicts; the length if none."""
        for position, entry in enumerate(entries):
            if entry.index > self._last or not self.matches(entry.index, entry.term):
                return position
        return len(entries)

    def restore(self, snapshot: SnapshotMeta) -> None:
        """Replace the whole log by a snapshot newer than the commit index."""
        self._tail.clear()
        self._offset = self._unhanded = snapshot.index + 1
        self._last = snapshot.index
        self._snapshot = snapshot
        self._snapshot_handed = False
        for write in self._writes:  # the snapshot wipes them
            write.vouches_for = 0
        self.commit = snapshot.index

    def commit_to(self, index: int) -> None:
        """Advance the commit index; it never moves back."""
        if index > self._last:
            raise LogCorruptionError(
                f"the leader says {index} is committed here, but the log ends at {self._last}: "
                "was it truncated or lost? Replace this peer's data"
            )
        self.commit = max(self.commit, index)

    # -- handing out to the driver ---------------------------------------------------------

    @property
    def has_write(self) -> bool:
        snapshot_waits = self._snapshot is not None and not self._snapshot_handed
        return snapshot_waits or self._unhanded <= self._last

    def take_write(self, number: int) -> tuple[SnapshotMeta | None, tuple[Entry, ...]]:
        """The writes of the Ready of this number."""
        snapshot = None if self._snapshot_handed else self._snapshot
        entries = tuple(self._tail[self._unhanded - self._offset :])
        self._snapshot_handed = self._snapshot is not None
        self._unhanded = self._last + 1
        if snapshot is not None or entries:
            self._writes.append(_Write(number, self._last, snapshot))
        return snapshot, entries

    def persisted(self, number: int) -> None:
        """All writes up to this number are durable."""
        while self._writes and self._writes[0].number <= number:
            write = self._writes.popleft()
            if write.snapshot is not None and write.snapshot is self._snapshot:
                self._snapshot_installed(write.snapshot)
            if write.vouches_for >= self._offset:
                del self._tail[: write.vouches_for + 1 - self._offset]
                self._offset = write.vouches_for + 1

    def _snapshot_installed(self, snapshot: SnapshotMeta) -> None:
        self._snapshot = None
        self._snapshot_handed = False
        self._applying_batches.clear()
        self._applying_bytes = 0
        self.applied = self.applying = max(self.applied, snapshot.index)

    @property
    def _appliable(self) -> int:
        if self._snapshot is not None or self._applying_bytes >= self._max_applying_bytes:
            return 0
        return self.commit if self._apply_unpersisted else min(self.commit, self._offset - 1)

    @property
    def has_committed(self) -> bool:
        return self._appliable > self.applying

    def take_committed(self) -> tuple[Entry, ...]:
        """The next committed entries to apply, within the limit of bytes being applied."""
        room = self._max_applying_bytes - self._applying_bytes
        entries = self.entries(self.applying + 1, self._appliable + 1, room)
        if entries:
            size = sum(map(entry_size, entries))
            self._applying_batches.append((entries[-1].index, size))
            self._applying_bytes += size
            self.applying = entries[-1].index
        return entries

    def applied_to(self, index: int) -> None:
        """The driver has applied the log up to ``index``."""
        if index > self.applying:
            raise InvariantViolationError(
                f"the driver applied {index}, but was handed entries only to {self.applying}"
            )
        self.applied = max(self.applied, index)
        while self._applying_batches and self._applying_batches[0][0] <= index:
            self._applying_bytes -= self._applying_batches.popleft()[1]

    def check_invariants(self) -> None:
        """Cheap: no storage access beyond the index bounds."""
        ordered = self.applied <= self.applying <= self.commit <= self._last
        if not (ordered or self._snapshot is not None):
            raise InvariantViolationError(
                f"applied {self.applied}, applying {self.applying}, commit {self.commit}, "
                f"last {self._last} are out of order"
            )
        if self._offset + len(self._tail) != self._last + 1:
            raise InvariantViolationError(
                f"{len(self._tail)} entries from {self._offset} do not end at {self._last}"
            )
        if not self._offset <= self._unhanded <= self._last + 1:
            raise InvariantViolationError(
                f"unhanded {self._unhanded} is outside [{self._offset}, {self._last + 1}]"
            )
