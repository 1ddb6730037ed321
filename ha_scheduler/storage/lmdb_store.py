"""A peer's storage in LMDB: one environment for log, hard state and ledger.

Guarantee: the port's (see ``port``). Durable means fsynced by LMDB (``sync=True``, two syncs a
commit), without ``writemap`` (under which a full disk is a SIGBUS) and with LMDB's 0.9 format
(``lib_version=0``: the package bundles two that cannot read each other).

Order at open: the lock, then the identity, then every row of the log, and only then may anything
be written or voted. Order in a transaction: snapshot, hard state, entries, fold, compaction. Write
transactions happen only in the writer's thread; reads in any.

Any failed commit ends the writing for good. A full disk gives up the reserve file first, so that
the next start has room to compact.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from ha_scheduler.ledger.dump import load
from ha_scheduler.raft import Entry, HardState, Membership, SnapshotMeta
from ha_scheduler.storage import log_table
from ha_scheduler.storage.applying import applied_after, fold_entries
from ha_scheduler.storage.directory import RESERVE_BYTES, DataDirectory
from ha_scheduler.storage.environment import (
    MAP_BYTES,
    Databases,
    Identity,
    open_environment,
    read_applied,
    read_hard_state,
    write_failure,
)
from ha_scheduler.storage.errors import CorruptLog
from ha_scheduler.storage.lmdb_tables import LmdbTables
from ha_scheduler.storage.log_table import LogTable
from ha_scheduler.storage.log_view import RECENT_BYTES_MAX, LogView
from ha_scheduler.storage.port import BatchGuard, LedgerView, OnDurable, WriteBatch
from ha_scheduler.storage.schema import APPLIED, HARD_STATE, put_fields
from ha_scheduler.storage.writer import Writer, WriterStats


class LmdbStore:
    """``PeerStore`` in a directory."""

    def __init__(
        self,
        directory: DataDirectory,
        dbs: Databases,
        on_durable: OnDurable,
        recent_bytes_max: int,
    ) -> None:
        """Use ``open``."""
        self._directory = directory
        self._dbs = dbs
        self._closed = False
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
        self._writer = Writer(self._commit, on_durable, name=f"store-{directory.path.name}")

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        cell: str,
        peer: str,
        peer_id: int,
        create: bool,
        on_durable: OnDurable,
        membership: Membership | None = None,
        map_bytes: int = MAP_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
        recent_bytes_max: int = RECENT_BYTES_MAX,
    ) -> LmdbStore:
        """Open the directory of ``peer`` of ``cell``, verify it, and start the writer.

        ``create``: make a new one if there is none; its log begins with ``membership`` (a peer
        that joins a cell gives none and learns it from the leader). ``peer_id`` becomes the Raft
        id of a disk that has none; one that has keeps its own. Raises ``StorageError``.
        """
        directory = DataDirectory(path, create=create, reserve_bytes=reserve_bytes)
        dbs: Databases | None = None
        try:
            dbs = open_environment(
                directory, Identity(cell, peer, peer_id), create, membership, map_bytes
            )
            store = cls(directory, dbs, on_durable, recent_bytes_max)
        except BaseException:
            if dbs is not None:
                dbs.env.close()
            directory.close()
            raise
        directory.renew_reserve()
        store._writer.start()
        return store

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

    @property
    def stats(self) -> WriterStats:
        """What the writer has done so far."""
        return self._writer.stats

    def submit(self, batch: WriteBatch) -> None:
        self._writer.check_room(batch)
        self._guard.check(batch)
        self._pending.append(batch)
        self._writer.submit(batch)

    def settle(self, number: int) -> None:
        while self._pending and self._pending[0].number <= number:
            self._view.settle(self._pending.popleft())

    @contextmanager
    def view(self) -> Iterator[LedgerView]:
        with self._dbs.env.begin() as txn:
            tables = LmdbTables(txn, self._dbs.tables, self._directory.path, writable=False)
            yield LedgerView(tables, read_applied(txn, self._dbs))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        self._dbs.env.close()
        self._directory.close()

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
            raise CorruptLog(self._directory.path, lo, str(error)) from error

    def _commit(self, group: Sequence[WriteBatch]) -> None:
        """In the writer's thread: one transaction for the group. Raises what ends the writing."""
        try:
            with self._dbs.env.begin(write=True) as txn:
                for batch in group:
                    self._write(txn, batch)
        except (lmdb.Error, OSError, MemoryError) as error:
            raise write_failure(self._directory, error) from error

    def _write(self, txn: Any, batch: WriteBatch) -> None:
        tables = LmdbTables(txn, self._dbs.tables, self._directory.path, writable=True)
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
