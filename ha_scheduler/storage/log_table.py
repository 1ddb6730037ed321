"""The log's rows inside a transaction: append, compact, restart, read, verify.

Guarantee: rows run without a gap from the compaction point on, each chained to the one before.
Whatever is read has been checked; a hole, a flipped bit or a row of another history raises
``CorruptLog`` with its index.

Order: ``LogTable`` lives in the writer's thread and knows the end of the chain, so appending reads
only when it replaces a suffix. Its memory moves with puts, not with commits: after an aborted
transaction it must be thrown away, and so it is, since any failure ends the writing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ha_scheduler.raft import CompactedError, Entry, SnapshotMeta, entry_size
from ha_scheduler.storage.errors import CorruptLog
from ha_scheduler.storage.schema import (
    CHAIN_START,
    COMPACTED,
    get_fields,
    index_key,
    key_index,
    open_entry,
    put_fields,
    seal_entry,
)


@dataclass(frozen=True, slots=True)
class Compacted:
    """The entry before the first one kept: ``crc`` is what the first row chains to."""

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

    Raises ``CompactedError`` if the writer has compacted them meanwhile, ``CorruptLog``.
    """
    compacted = read_compacted(txn, dbs)
    if lo <= compacted.index:
        raise CompactedError(f"entry {lo} is compacted, first is {compacted.index + 1}")
    found: list[Entry] = []
    before = compacted.crc if lo == compacted.index + 1 else None
    for entry, _ in _chain(txn, dbs, lo, before):
        max_bytes -= entry_size(entry)
        if entry.index >= hi or (max_bytes < 0 and found):
            return found
        found.append(entry)
    if not found or found[-1].index + 1 < hi:
        raise CorruptLog(dbs.path, lo + len(found), "it is missing")
    return found


def verify(txn: Any, dbs: LogDbs) -> Iterator[tuple[Entry, int]]:
    """Every entry with its crc, the whole chain checked."""
    compacted = read_compacted(txn, dbs)
    return _chain(txn, dbs, compacted.index + 1, compacted.crc)


def _chain(txn: Any, dbs: LogDbs, lo: int, before: int | None) -> Iterator[tuple[Entry, int]]:
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


class LogTable:
    """The log as the writer changes it."""

    def __init__(self, dbs: LogDbs, compacted: Compacted, last_index: int, last_crc: int) -> None:
        self._dbs = dbs
        self._compacted = compacted
        self._last_index = last_index
        self._last_crc = last_crc

    def append(self, txn: Any, entries: Sequence[Entry]) -> None:
        """Write entries in place of everything from the first one's index on."""
        if not entries:
            return
        self._cut(txn, entries[0].index)
        for entry in entries:
            assert entry.index == self._last_index + 1, (entry.index, self._last_index)
            row, self._last_crc = seal_entry(entry, self._last_crc)
            txn.put(index_key(entry.index), row, db=self._dbs.log, append=True)
            self._last_index = entry.index

    def compact(self, txn: Any, to: int) -> None:
        """Delete entries up to and including ``to``."""
        if to <= self._compacted.index:
            return
        entry, crc = self._read(txn, to)
        for index in range(self._compacted.index + 1, to + 1):
            txn.delete(index_key(index), db=self._dbs.log)
        self._put_compacted(txn, Compacted(to, entry.term, crc))

    def restart(self, txn: Any, meta: SnapshotMeta) -> None:
        """A snapshot has replaced everything up to ``meta.index``; nothing follows it yet."""
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
            _, self._last_crc = self._read(txn, self._last_index)

    def _read(self, txn: Any, index: int) -> tuple[Entry, int]:
        row = txn.get(index_key(index), db=self._dbs.log)
        if row is None:
            raise CorruptLog(self._dbs.path, index, "it is missing")
        return open_entry(self._dbs.path, index, row, None)

    def _put_compacted(self, txn: Any, compacted: Compacted) -> None:
        fields = (compacted.index, compacted.term, compacted.crc)
        put_fields(txn, self._dbs.peer, COMPACTED, fields)
        self._compacted = compacted
