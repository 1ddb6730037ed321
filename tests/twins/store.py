"""The store in memory: the port's contract without a disk.

Guarantee: what ``flush`` has committed survives ``crash``, what it has not is lost, exactly as
with a disk whose fsync had not returned. Not durable in any other sense.

Order: with ``deferred=False`` each ``submit`` is committed and reported before it returns; with
``deferred=True`` only ``flush`` does it, so that a test decides what is in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ha_scheduler.ledger import rejections
from ha_scheduler.ledger.dump import load
from ha_scheduler.ledger.records import RecordRejected
from ha_scheduler.ledger.rejections import Rejections
from ha_scheduler.raft.errors import CompactedError
from ha_scheduler.raft.messages import Entry, HardState, Membership, SnapshotMeta, entry_size
from ha_scheduler.raft.storage import limit_size
from ha_scheduler.storage.applying import applied_after, fold_entries
from ha_scheduler.storage.errors import StoreClosed
from ha_scheduler.storage.log_view import RECENT_BYTES_MAX, LogView
from ha_scheduler.storage.port import LedgerView, OnDurable, Space, WriteBatch
from ha_scheduler.storage.settled import SettledReader

from .tables import MemoryTables


@dataclass(slots=True)
class _Disk:
    """What survives a crash."""

    applied: SnapshotMeta
    hard_state: HardState = field(default_factory=lambda: HardState(0, 0, 0))
    compacted: tuple[int, int] = (0, 0)
    entries: list[Entry] = field(default_factory=list)
    tables: MemoryTables = field(default_factory=MemoryTables)

    def write(self, batch: WriteBatch) -> list[Rejections | RecordRejected]:
        found: list[Rejections | RecordRejected] = []
        if batch.snapshot is not None:
            tables = MemoryTables()
            load(batch.snapshot.chunks, tables)
            self.tables, self.applied = tables, batch.snapshot.meta
            self.compacted = (self.applied.index, self.applied.term)
            self.entries = []
            found.append(Rejections(rejections.scan(tables)))
        if batch.hard_state is not None:
            self.hard_state = batch.hard_state
        if batch.entries:
            self.entries[batch.entries[0].index - self.compacted[0] - 1 :] = batch.entries
        if batch.apply:
            found += fold_entries(self.tables, batch.apply)
            self.applied = applied_after(batch, self.applied)
        if batch.compact_to is not None:
            self.compact(batch.compact_to)
        return found

    def compact(self, to: int) -> None:
        gone = to - self.compacted[0]
        if gone > 0:
            self.compacted = (to, self.entries[gone - 1].term)
            del self.entries[:gone]

    def read(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]:
        first = self.compacted[0] + 1
        if lo < first:
            raise CompactedError(f"entry {lo} is compacted, first is {first}")
        return limit_size(self.entries[lo - first : hi - first], max_bytes)


class MemoryStore(SettledReader):
    """``PeerStore`` without a disk."""

    def __init__(
        self,
        *,
        on_durable: OnDurable,
        membership: Membership | None = None,
        deferred: bool = False,
        recent_bytes_max: int = RECENT_BYTES_MAX,
    ) -> None:
        self._boot(
            _Disk(SnapshotMeta(0, 0, membership or Membership(()))),
            on_durable,
            deferred,
            recent_bytes_max,
        )

    def _boot(
        self, disk: _Disk, on_durable: OnDurable, deferred: bool, recent_bytes_max: int
    ) -> None:
        self._disk = disk
        self._on_durable = on_durable
        self._deferred = deferred
        self._recent_bytes_max = recent_bytes_max
        self._closed = False
        self._failure: Exception | None = None
        self._queue: deque[WriteBatch] = deque()
        view = LogView(disk.hard_state, disk.applied, disk.compacted, disk.read, recent_bytes_max)
        for entry in disk.entries:
            view.load(entry)
        self.begin(view, disk.compacted[0] + 1, rejections.scan(disk.tables))

    def space(self) -> Space:
        return Space(sum(map(entry_size, self._disk.entries)), 1 << 40)

    def submit(self, batch: WriteBatch) -> None:
        if self._closed:
            raise StoreClosed
        self.admit(batch)
        self._queue.append(batch)
        if not self._deferred:
            self.flush()

    @contextmanager
    def view(self) -> Iterator[LedgerView]:
        yield LedgerView(self._disk.tables.copy(), self._disk.applied)

    def close(self) -> None:
        self.flush()
        self._closed = True

    def flush(self, batches: int | None = None) -> None:
        """Commit and report the oldest ``batches`` of those queued, or all."""
        count = len(self._queue) if batches is None else batches
        for _ in range(min(count, len(self._queue))):
            batch = self._queue.popleft()
            self._try_write(batch)
            self._on_durable(batch.number, self._failure)

    def fail(self, error: Exception) -> None:
        """From now on every commit fails with ``error``."""
        self._failure = error

    def crash(self, on_durable: OnDurable) -> MemoryStore:
        """The store as a new process finds it: what was not flushed is gone."""
        self._closed = True
        self._queue.clear()
        again = MemoryStore.__new__(MemoryStore)
        again._boot(self._disk, on_durable, self._deferred, self._recent_bytes_max)
        return again

    def _try_write(self, batch: WriteBatch) -> None:
        if self._failure is None:
            try:
                self.found(batch.number, *self._disk.write(batch))
            except Exception as error:
                self._failure = error
