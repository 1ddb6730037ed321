"""A peer's storage inside the transactions of one environment: everything but the thread.

Guarantee: ``commit`` writes a group of batches in one transaction, in their order, or raises and
writes none of it. What the reader's half of the port answers follows from the batches settled so
far, nothing else. Opening reads and verifies every row of the log.

Order in a transaction: snapshot, hard state, entries, fold, compaction. A batch is ``admit``-ted
when it is submitted, committed by whoever owns the write transactions, and ``settle``-d when it is
durable. The environment is injected, so that the same code runs over a simulated disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lmdb

from ha_scheduler.ledger.dump import load
from ha_scheduler.raft import Entry, HardState, Membership, SnapshotMeta
from ha_scheduler.storage import log_table
from ha_scheduler.storage.applying import applied_after, fold_entries
from ha_scheduler.storage.environment import Databases, read_applied, read_hard_state
from ha_scheduler.storage.errors import CorruptLog
from ha_scheduler.storage.lmdb_tables import LmdbTables
from ha_scheduler.storage.log_table import LogTable
from ha_scheduler.storage.log_view import LogView
from ha_scheduler.storage.port import BatchGuard, LedgerView, WriteBatch
from ha_scheduler.storage.schema import APPLIED, HARD_STATE, put_fields


class TransactionalStore:
    """The reader's half of ``PeerStore``, and what goes into a transaction."""

    def __init__(self, dbs: Databases, recent_bytes_max: int) -> None:
        """Read and verify everything that the core relies on. Raises ``CorruptData``."""
        self._dbs = dbs
        self._path = dbs.log_dbs.path
        self._pending: deque[WriteBatch] = deque()
        with dbs.env.begin() as txn:
            self._applied = read_applied(txn, dbs)
            compacted = log_table.read_compacted(txn, dbs.log_dbs)
            self._view = LogView(
                read_hard_state(txn, dbs),
                self._applied,
                (compacted.index, compacted.term),
                self._fetch,
                recent_bytes_max,
            )
            last_crc = self._load_log(txn, compacted.crc)
        last = self._view.last_index()
        self._log = LogTable(dbs.log_dbs, compacted, last, last_crc)
        self._guard = BatchGuard(last, self._applied.index, compacted.index)

    def initial_state(self) -> tuple[HardState, Membership]:
        return self._view.initial_state()

    def first_index(self) -> int:
        return self._view.first_index()

    def last_index(self) -> int:
        return self._view.last_index()

    def term(self, index: int) -> int:
        return self._view.term(index)

    def entries(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]:
        return self._view.entries(lo, hi, max_bytes)

    def snapshot(self) -> SnapshotMeta:
        return self._view.snapshot()

    def applied(self) -> int:
        return self._view.applied()

    @property
    def peer_id(self) -> int:
        """The Raft id of this disk: it votes under this one, whatever was asked for."""
        return self._dbs.peer_id

    def admit(self, batch: WriteBatch) -> None:
        """``batch`` is about to be queued for ``commit``."""
        self._guard.check(batch)
        self._pending.append(batch)

    def settle(self, number: int) -> None:
        while self._pending and self._pending[0].number <= number:
            self._view.settle(self._pending.popleft())

    @contextmanager
    def view(self) -> Iterator[LedgerView]:
        with self._dbs.env.begin() as txn:
            tables = LmdbTables(txn, self._dbs.tables, self._path, writable=False)
            yield LedgerView(tables, read_applied(txn, self._dbs))

    def commit(self, group: Sequence[WriteBatch]) -> None:
        """One transaction for the group. Any error is final: throw this object away."""
        with self._dbs.env.begin(write=True) as txn:
            for batch in group:
                self._write(txn, batch)

    def _load_log(self, txn: Any, last_crc: int) -> int:
        """Read and verify the whole log; the end of its chain."""
        for entry, crc in log_table.verify(txn, self._dbs.log_dbs):
            self._view.load(entry)
            last_crc = crc
        return last_crc

    def _fetch(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]:
        try:
            with self._dbs.env.begin() as txn:
                return log_table.read_entries(txn, self._dbs.log_dbs, lo, hi, max_bytes)
        except lmdb.Error as error:
            raise CorruptLog(self._path, lo, str(error)) from error

    def _write(self, txn: Any, batch: WriteBatch) -> None:
        tables = LmdbTables(txn, self._dbs.tables, self._path, writable=True)
        if batch.snapshot is not None:
            load(batch.snapshot.chunks, tables)
            self._log.restart(txn, batch.snapshot.meta)
            self._put_applied(txn, batch.snapshot.meta)
        if batch.hard_state is not None:
            state = batch.hard_state
            put_fields(txn, self._dbs.peer, HARD_STATE, (state.term, state.vote, state.commit))
        self._log.append(txn, batch.entries)
        if batch.apply:
            fold_entries(tables, batch.apply)
            self._put_applied(txn, applied_after(batch, self._applied))
        if batch.compact_to is not None:
            self._log.compact(txn, batch.compact_to)

    def _put_applied(self, txn: Any, meta: SnapshotMeta) -> None:
        members = meta.membership
        fields = (meta.index, meta.term, members.voters, members.learners)
        put_fields(txn, self._dbs.peer, APPLIED, fields)
        self._applied = meta
