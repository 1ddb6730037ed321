"""A peer's storage inside the transactions of one environment: everything but the threads.

Guarantee: ``commit`` writes a group of batches in one transaction, in their order, or raises and
writes none; a snapshot is put beside the ledger first (``staging``). Opening verifies what a vote
or an append relies on: the hard state, the unapplied end of the log, and that they fit together.
Other rows are verified at each read, and all once by the owner's thread (``scrub``). So opening
takes no longer for a longer log.

Order in a transaction: snapshot, hard state, entries, fold, compaction. A batch is ``admit``-ted
when submitted, committed by the owner of the write transactions, and ``settle``-d when durable. The
environment is injected: the same code runs over a simulated disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lmdb

from ha_scheduler import failpoints
from ha_scheduler.ledger import rejections
from ha_scheduler.ledger.rejections import Rejections
from ha_scheduler.raft.messages import Entry, HardState, SnapshotMeta
from ha_scheduler.storage import log_table
from ha_scheduler.storage.applying import applied_after, fold_entries
from ha_scheduler.storage.environment import (
    Databases,
    read_applied,
    read_dropped,
    read_hard_state,
    read_slot,
)
from ha_scheduler.storage.errors import CorruptData, CorruptLedger
from ha_scheduler.storage.lmdb_tables import LmdbTables
from ha_scheduler.storage.log_table import Compacted, LogTable
from ha_scheduler.storage.log_view import LogView
from ha_scheduler.storage.port import LedgerView, WriteBatch
from ha_scheduler.storage.schema import APPLIED, HARD_STATE, PEER_DB, put_fields
from ha_scheduler.storage.settled import SettledReader
from ha_scheduler.storage.staging import clear, stage, use_staged

TAIL_BYTES = 8 * 1024 * 1024  # of the newest entries, verified at open


class TransactionalStore(SettledReader):
    """The reader's half of ``PeerStore``, and the contents of transactions."""

    def __init__(self, dbs: Databases, recent_bytes_max: int) -> None:
        """Verify the state that the core relies on. Raises ``CorruptData``."""
        self._dbs = dbs
        self._path = dbs.log_dbs.path
        try:
            with dbs.env.begin() as txn:
                self._open(txn, recent_bytes_max)
        except lmdb.Error as error:
            raise CorruptData(self._path, f"the log ({error})") from error

    @property
    def peer_id(self) -> int:
        """The Raft id of this disk."""
        return self._dbs.peer_id

    @contextmanager
    def view(self) -> Iterator[LedgerView]:
        with self._reading("the ledger") as txn:
            slot = self._dbs.slots[read_slot(txn, self._dbs)]
            tables = LmdbTables(txn, slot, self._path, writable=False)
            yield LedgerView(tables, read_applied(txn, self._dbs))

    def commit(self, group: Sequence[WriteBatch]) -> None:
        """One transaction for the group. Any error invalidates this object.

        A snapshot must be the first of its group; it is staged in transactions of its own.
        """
        for batch in group:
            if batch.snapshot is not None:
                assert batch is group[0], "a snapshot is the first of its group"
                stage(self._dbs, 1 - self._slot, batch.snapshot.chunks)
                failpoints.reach("snapshot.staged")
        with self._dbs.env.begin(write=True) as txn:
            for batch in group:
                self._write(txn, batch)
            self._log.trim(txn)

    def forget_applied_log(self) -> None:
        """Delete every applied entry, a few in each transaction, before anything is queued.

        For a nearly full disk. Peers that lag behind will need a snapshot.
        """
        done = WriteBatch(0, compact_to=self.applied())
        self._log.compact(self.applied())
        while not self._log.is_trimmed:
            self.commit(())
        self._view.settle(done)

    def forget_staged(self) -> None:
        """Delete an incomplete staged snapshot."""
        clear(self._dbs, 1 - self._slot)

    def on_damage(self, error: CorruptData) -> None:
        """A hook for the owner: a reader found this damage."""

    def _open(self, txn: Any, recent_bytes_max: int) -> None:
        log, hard_state = self._dbs.log_dbs, read_hard_state(txn, self._dbs)
        self._applied = read_applied(txn, self._dbs)
        self._slot = read_slot(txn, self._dbs)
        compacted = log_table.read_compacted(txn, log)
        last = log_table.find_last(txn, log, compacted)
        if not compacted.index <= self._applied.index <= last:
            why = f"entry {self._applied.index} of {compacted.index + 1} to {last}"
            raise CorruptLedger(self._path, PEER_DB.decode(), APPLIED, why)
        view = LogView(
            hard_state,
            self._applied,
            (compacted.index, compacted.term),
            self._fetch,
            recent_bytes_max,
        )
        last_crc = self._load_tail(txn, view, compacted, last)
        self._check_terms(view, hard_state)
        self._log = LogTable(log, compacted, last, last_crc)
        tables = LmdbTables(txn, self._dbs.slots[self._slot], self._path, writable=False)
        self.begin(view, compacted.index + 1, rejections.scan(tables))
        self._dropped = read_dropped(txn, self._dbs)

    def _load_tail(self, txn: Any, view: LogView, compacted: Compacted, last: int) -> int:
        """Verify the end of the log and keep it in memory. Returns the end of its chain."""
        log, first = self._dbs.log_dbs, compacted.index + 1
        tail = log_table.find_tail(txn, log, first, last, TAIL_BYTES)
        tail = min(tail, self._applied.index + 1)
        view.skip(tail - 1, log_table.find_terms(txn, log, first, tail - 1))
        last_crc = compacted.crc
        for entry, crc in log_table.chain(txn, log, compacted, tail):
            view.load(entry)
            last_crc = crc
        self.verified_from = tail
        return last_crc

    def _check_terms(self, view: LogView, hard_state: HardState) -> None:
        """Detect intact rows of another time: a lost write leaves an older page."""
        last_term = view.term(view.last_index())
        if hard_state.term < last_term:
            why = f"term {hard_state.term}, but the log has an entry of term {last_term}"
            raise CorruptLedger(self._path, PEER_DB.decode(), HARD_STATE, why)
        if view.term(self._applied.index) != self._applied.term:
            why = f"its term is not that of entry {self._applied.index}"
            raise CorruptLedger(self._path, PEER_DB.decode(), APPLIED, why)

    @contextmanager
    def _reading(self, what: str) -> Iterator[Any]:
        """A read transaction; its damage is reported for the whole store."""
        try:
            with self._dbs.env.begin() as txn:
                yield txn
        except CorruptData as error:
            self.on_damage(error)
            raise
        except lmdb.ReadersFullError:
            raise
        except lmdb.Error as error:
            damage = CorruptData(self._path, f"{what} ({error})")
            self.on_damage(damage)
            raise damage from error

    def _fetch(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]:
        with self._reading(f"the log from entry {lo} on") as txn:
            return log_table.read_entries(txn, self._dbs.log_dbs, lo, hi, max_bytes)

    def _write(self, txn: Any, batch: WriteBatch) -> None:
        if batch.snapshot is not None:
            self._slot = use_staged(txn, self._dbs, self._slot)
            self._log.restart(txn, batch.snapshot.meta)
            self._put_applied(txn, batch.snapshot.meta)
            self.found(batch.number, Rejections(rejections.scan(self._tables(txn))))
        if batch.hard_state is not None:
            state = batch.hard_state
            put_fields(txn, self._dbs.peer, HARD_STATE, (state.term, state.vote, state.commit))
        self._log.append(txn, batch.entries)
        if batch.apply:
            rejected = fold_entries(self._tables(txn), batch.apply, self._dropped)
            self.found(batch.number, *rejected)
            self._put_applied(txn, applied_after(batch, self._applied))
        if batch.compact_to is not None:
            self._log.compact(batch.compact_to)

    def _tables(self, txn: Any) -> LmdbTables:
        return LmdbTables(txn, self._dbs.slots[self._slot], self._path, writable=True)

    def _put_applied(self, txn: Any, meta: SnapshotMeta) -> None:
        members = meta.membership
        fields = (meta.index, meta.term, members.voters, members.learners)
        put_fields(txn, self._dbs.peer, APPLIED, fields)
        self._applied = meta
