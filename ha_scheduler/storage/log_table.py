"""The log's rows inside a transaction: append, compact, restart, read, verify.

Guarantee: rows run without a gap from the compaction point on, each chained to the one before.
Every row read is checked; a gap, a flipped bit or a row of another history raises ``CorruptLog``
with its index.

Nothing here reads the whole log: its end, its length and its terms are found with a few rows each.

Order: ``LogTable`` lives in the writer's thread and knows the end of the chain, so appending reads
only when it replaces a suffix. Its memory moves with puts, not with commits: after an aborted
transaction it is thrown away, as any failure ends the writing.

Compacted rows go a few at a time, in the transactions that follow: many at once would delay
everybody who waits for one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ha_scheduler.raft.errors import CompactedError
from ha_scheduler.raft.messages import Entry, SnapshotMeta, entry_size
from ha_scheduler.storage.errors import CorruptLog
from ha_scheduler.storage.schema import (
    CHAIN_START,
    COMPACTED,
    get_fields,
    index_key,
    key_index,
    open_entry,
    put_fields,
    row_crc,
    seal_entry,
)

TRIM_ROWS = 1024  # rows deleted in one transaction, plus twice as many as it appends


@dataclass(frozen=True, slots=True)
class Compacted:
    """The entry before the first one kept; the first row chains to ``crc``."""

    index: int = 0
    term: int = 0
    crc: int = CHAIN_START


@dataclass(frozen=True, slots=True)
class LogDbs:
    """Handles that the log's rows need."""

    log: Any
    peer: Any
    path: Path


def read_compacted(txn: Any, dbs: LogDbs) -> Compacted:
    """The compaction point as stored."""
    fields = get_fields(txn, dbs.peer, dbs.path, COMPACTED)
    return Compacted() if fields is None else Compacted(*fields)


def read_entries(txn: Any, dbs: LogDbs, lo: int, hi: int, max_bytes: int) -> list[Entry]:
    """Entries of [lo, hi) within ``max_bytes``, but at least one.

    Raises ``CorruptLog``, and ``CompactedError`` if the writer has compacted them meanwhile.
    """
    compacted = read_compacted(txn, dbs)
    if lo <= compacted.index:
        raise CompactedError(f"entry {lo} is compacted, first is {compacted.index + 1}")
    found: list[Entry] = []
    for entry, _ in chain(txn, dbs, compacted, lo):
        max_bytes -= entry_size(entry)
        if entry.index >= hi or (max_bytes < 0 and found):
            return found
        found.append(entry)
    if not found or found[-1].index + 1 < hi:
        raise CorruptLog(dbs.path, lo + len(found), "it is missing")
    return found


def chain(txn: Any, dbs: LogDbs, compacted: Compacted, lo: int) -> Iterator[tuple[Entry, int]]:
    """Checked entries from ``lo`` on, each with its crc and in chain with the one before.

    The row before ``lo`` is only asked for its crc; it is checked when it is read itself.
    """
    before = compacted.crc if lo == compacted.index + 1 else row_crc(_row(txn, dbs, lo - 1))
    with txn.cursor(db=dbs.log) as cursor:
        index = lo
        found = cursor.set_range(index_key(lo))
        while found:
            if key_index(cursor.key()) != index:
                raise CorruptLog(dbs.path, index, "it is missing")
            entry, before = open_entry(dbs.path, index, cursor.value(), before)
            yield entry, before
            index += 1
            found = cursor.next()


def find_last(txn: Any, dbs: LogDbs, compacted: Compacted) -> int:
    """The index of the last entry, or that of the compaction point.

    The number of rows must be that of the indices: a missing row is named.
    """
    with txn.cursor(db=dbs.log) as cursor:
        last = key_index(cursor.key()) if cursor.last() else compacted.index
        if int(txn.stat(dbs.log)["entries"]) != last - compacted.index:
            _name_the_gap(cursor, dbs, compacted.index + 1)
    return last


def find_terms(txn: Any, dbs: LogDbs, first: int, last: int) -> Iterator[tuple[int, int]]:
    """The first index of each term in [first, last], with the term. Terms never fall."""

    def term(index: int) -> int:
        return read_entry(txn, dbs, index)[0].term

    while first <= last:
        found = term(first)
        yield first, found
        later = range(first + 1, last + 1)
        first += 1 + bisect_right(later, found, key=term)


def find_tail(txn: Any, dbs: LogDbs, first: int, last: int, max_bytes: int) -> int:
    """The start of the last ``max_bytes`` of rows up to ``last``; not below ``first``."""
    while last >= first and max_bytes > 0:
        max_bytes -= len(_row(txn, dbs, last))
        last -= 1
    return last + 1


def read_entry(txn: Any, dbs: LogDbs, index: int) -> tuple[Entry, int]:
    """One entry and its crc, checked by itself."""
    return open_entry(dbs.path, index, _row(txn, dbs, index), None)


def _row(txn: Any, dbs: LogDbs, index: int) -> bytes:
    row: bytes | None = txn.get(index_key(index), db=dbs.log)
    if row is None:
        raise CorruptLog(dbs.path, index, "it is missing")
    return row


def _name_the_gap(cursor: Any, dbs: LogDbs, index: int) -> None:
    found = cursor.first()
    while found and key_index(cursor.key()) == index:
        index += 1
        found = cursor.next()
    raise CorruptLog(dbs.path, index, "it is missing")


class LogTable:
    """The log as the writer changes it."""

    def __init__(self, dbs: LogDbs, compacted: Compacted, last_index: int, last_crc: int) -> None:
        self._dbs = dbs
        self._compacted = compacted
        self._compact_to = compacted.index  # the goal; ``_compacted`` is the progress
        self._last_index = last_index
        self._last_crc = last_crc
        self._appended = 0  # rows since the last ``trim``

    @property
    def is_trimmed(self) -> bool:
        """Whether all compacted rows are deleted."""
        return self._compacted.index >= self._compact_to

    def append(self, txn: Any, entries: Sequence[Entry]) -> None:
        """Append entries; they replace the suffix from the first one's index on."""
        if not entries:
            return
        self._cut(txn, entries[0].index)
        for entry in entries:
            assert entry.index == self._last_index + 1, (entry.index, self._last_index)
            row, self._last_crc = seal_entry(entry, self._last_crc)
            txn.put(index_key(entry.index), row, db=self._dbs.log, append=True)
            self._last_index = entry.index
        self._appended += len(entries)

    def compact(self, to: int) -> None:
        """Compact the log up to and including ``to``."""
        self._compact_to = max(self._compact_to, to)

    def trim(self, txn: Any) -> None:
        """Delete some of the compacted rows, at the end of each transaction."""
        rows, self._appended = TRIM_ROWS + 2 * self._appended, 0
        if self.is_trimmed:
            return
        to = min(self._compact_to, self._compacted.index + rows)
        entry, crc = read_entry(txn, self._dbs, to)
        for index in range(self._compacted.index + 1, to + 1):
            txn.delete(index_key(index), db=self._dbs.log)
        self._put_compacted(txn, Compacted(to, entry.term, crc))

    def restart(self, txn: Any, meta: SnapshotMeta) -> None:
        """A snapshot has replaced the whole log."""
        txn.drop(self._dbs.log, delete=False)
        self._put_compacted(txn, Compacted(meta.index, meta.term, CHAIN_START))
        self._last_index, self._last_crc = meta.index, CHAIN_START

    def _cut(self, txn: Any, first: int) -> None:
        if first > self._last_index:
            return
        for index in range(first, self._last_index + 1):
            txn.delete(index_key(index), db=self._dbs.log)
        self._last_index = first - 1
        if self._last_index == self._compacted.index:
            self._last_crc = self._compacted.crc
        else:
            _, self._last_crc = read_entry(txn, self._dbs, self._last_index)

    def _put_compacted(self, txn: Any, compacted: Compacted) -> None:
        fields = (compacted.index, compacted.term, compacted.crc)
        put_fields(txn, self._dbs.peer, COMPACTED, fields)
        self._compacted = compacted
