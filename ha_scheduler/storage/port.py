"""The storage port of a peer: the raft log, the hard state and the ledger, as one.

Guarantee: a ``WriteBatch`` becomes durable in one transaction, batches in the order of their
numbers, and ``on_durable(number, None)`` is called only after that. The ledger's rows and the
applied index move in one transaction, so a restart replays nothing. A snapshot may be written
before, and counts from the batch's transaction on.

Order, on the loop's thread: ``submit`` (returns at once); ``on_durable`` comes *from the writer's
thread* and is posted to the loop; there ``settle(number)``, then the core's ``persisted(number)``.
The reader's half (``LogReader``) answers from what is settled, so it changes only on the loop's
thread and between two calls of the core: it needs no lock.

An ``on_durable`` with an error is the last: every later batch gets the same error. Damage that a
reader found comes with the number of no batch. The caller must end the process (see ``errors``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ha_scheduler.ledger.rejections import Rejections
from ha_scheduler.ledger.tables import Tables
from ha_scheduler.raft.config import ENTRY_BYTES_MAX
from ha_scheduler.raft.messages import Entry, HardState, SnapshotMeta, entry_size
from ha_scheduler.raft.storage import LogReader

#: Called on the writer's thread. It must not raise: close the store before its loop.
OnDurable = Callable[[int, Exception | None], None]


@dataclass(frozen=True, slots=True)
class SnapshotInstall:
    """Replace log and ledger by another peer's.

    ``chunks`` of ``ledger.dump`` are read once, in the writer's thread. An error in them is as
    final as a disk's: check them (``dump.check_chunk``) on arrival.
    """

    meta: SnapshotMeta
    chunks: Iterable[bytes]


@dataclass(frozen=True, slots=True)
class WriteBatch:
    """The writes of one transaction, in the order of the fields.

    ``entries`` replace any suffix of the log from the first one's index on. ``apply``: committed
    entries, durable or in this batch, that continue the applied index without a gap and end at
    ``applied_index``; normal ones are folded. ``compact_to``: the log up to this applied index is
    no longer needed. ``must_sync``: false if ``hard_state`` brings at most a newer commit index,
    for which no answer waits.
    """

    number: int
    snapshot: SnapshotInstall | None = None
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    apply: tuple[Entry, ...] = ()
    applied_index: int | None = None
    compact_to: int | None = None
    must_sync: bool = True

    @property
    def is_urgent(self) -> bool:
        """Whether an answer waits for it; other batches wait for a group commit."""
        writes = bool(self.entries) or self.hard_state is not None or self.snapshot is not None
        return self.must_sync and writes

    @property
    def size_bytes(self) -> int:
        """Its size in the queue."""
        return sum(map(entry_size, self.entries)) + sum(map(entry_size, self.apply))


@dataclass(frozen=True, slots=True)
class LedgerView:
    """The ledger at one moment, with the ``meta`` for a snapshot of it."""

    tables: Tables
    meta: SnapshotMeta

    @property
    def applied(self) -> int:
        """The applied index of the tables."""
        return self.meta.index


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of the log, and free bytes."""

    log_bytes: int
    room_bytes: int


class PeerStore(LogReader, Protocol):
    """The port. For the loop's thread alone, except ``view``, which any thread may call."""

    def applied(self) -> int:
        """The applied index, as settled."""

    def rejections(self) -> Rejections:
        """What of the applied log could not be applied, as settled."""

    def is_dropped(self, entry: Entry) -> bool:
        """Whether an operator has dropped it: it will be rejected."""

    def space(self) -> Space:
        """How it stands now; a few reads of the directory."""

    def submit(self, batch: WriteBatch) -> None:
        """Queue one batch and return. Raises ``StoreOverloaded`` when the queue is full."""

    def settle(self, number: int) -> None:
        """Batches up to ``number`` are durable: let the reader see them."""

    def view(self) -> AbstractContextManager[LedgerView]:
        """A consistent view of the ledger as last committed, maybe newer than settled.

        Hold it briefly: the file grows meanwhile by whatever is written.
        """

    def close(self) -> None:
        """Commit what is queued, then release the directory. May be called twice."""


class BatchGuard:
    """Asserts the order of batches, before they reach the disk."""

    def __init__(self, last_index: int, applied: int, compacted: int) -> None:
        self._number = 0
        self._last = last_index
        self._applied = applied
        self._compacted = compacted

    def check(self, batch: WriteBatch) -> None:
        """Assert that ``batch`` continues those before it."""
        assert batch.number > self._number, f"batch {batch.number} after {self._number}"
        self._number = batch.number
        if batch.snapshot is not None:
            self._last = self._applied = self._compacted = batch.snapshot.meta.index
        self._check_entries(batch.entries)
        self._check_apply(batch)
        if batch.compact_to is not None:
            assert batch.compact_to <= self._applied, "only what is applied can be compacted"
            self._compacted = max(self._compacted, batch.compact_to)

    def _check_entries(self, entries: tuple[Entry, ...]) -> None:
        if not entries:
            return
        first = entries[0].index
        assert self._applied < first <= self._last + 1, (
            f"entry {first} after {self._last}, of which {self._applied} are applied"
        )
        for offset, entry in enumerate(entries):
            assert entry.index == first + offset, f"entry {entry.index} breaks the sequence"
            assert len(entry.data) <= ENTRY_BYTES_MAX, f"{len(entry.data)} bytes in one entry"
        self._last = entries[-1].index

    def _check_apply(self, batch: WriteBatch) -> None:
        for entry in batch.apply:
            assert entry.index == self._applied + 1, f"{entry.index} applied after {self._applied}"
            self._applied = entry.index
        assert self._applied <= self._last, f"applied {self._applied} of {self._last} entries"
        assert batch.applied_index in (None, self._applied), "applied_index is not the last applied"
