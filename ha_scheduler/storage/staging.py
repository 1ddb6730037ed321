"""A ledger that another peer sent, on its way into the unused set of tables.

Guarantee: the ledger in use stays as it is until ``use_staged``, in the transaction that also moves
the applied index. Memory is bounded: LMDB keeps a transaction's writes in memory until its commit,
so the ledger comes in transactions of ``STAGE_BYTES``.

Order: ``stage`` empties the unused set, fills it, and has verified the stream's end on return.
Readers that began before ``use_staged`` read the former ledger to their end. The leavings of an
interruption are deleted at the next start, or by the next ``stage``.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from ha_scheduler.ledger.dump import load
from ha_scheduler.storage.environment import Databases
from ha_scheduler.storage.lmdb_tables import LmdbTables
from ha_scheduler.storage.schema import LEDGER, put_fields

STAGE_BYTES = 16 * 1024 * 1024  # of rows in one transaction


def stage(dbs: Databases, slot: int, chunks: Iterable[bytes]) -> None:
    """Replace the tables of ``slot`` by ``chunks``. Raises ``SnapshotDamagedError``."""
    with ExitStack() as transaction:
        load(chunks, _Rows(dbs, slot, transaction))


def use_staged(txn: Any, dbs: Databases, before: int) -> int:
    """Make the other slot the ledger, in ``txn``. Returns its number."""
    slot = 1 - before
    put_fields(txn, dbs.peer, LEDGER, (slot,))
    _empty(txn, dbs, before)
    return slot


def clear(dbs: Databases, slot: int) -> None:
    """Empty the tables of ``slot``; no write if they are empty."""
    with dbs.env.begin() as txn:
        used = any(txn.stat(db)["entries"] for db in dbs.slots[slot].values())
    if used:
        with dbs.env.begin(write=True) as txn:
            _empty(txn, dbs, slot)


def _empty(txn: Any, dbs: Databases, slot: int) -> None:
    for db in dbs.slots[slot].values():
        txn.drop(db, delete=False)


class _Rows:
    """The tables of one slot as ``load`` writes them: one transaction after another."""

    def __init__(self, dbs: Databases, slot: int, transaction: ExitStack) -> None:
        """``transaction`` holds the current one: closed, it commits; on an error it aborts."""
        self._dbs = dbs
        self._slot = slot
        self._transaction = transaction
        self._begin()

    def put(self, table: str, key: bytes, value: bytes) -> None:
        if self._bytes > STAGE_BYTES:
            self._transaction.close()
            self._begin()
        self._bytes += len(key) + len(value)
        self._tables.put(table, key, value)

    def delete_prefix(self, table: str, prefix: bytes) -> int:
        return self._tables.delete_prefix(table, prefix)

    def _begin(self) -> None:
        self._bytes = 0
        txn = self._transaction.enter_context(self._dbs.env.begin(write=True))
        path = self._dbs.log_dbs.path
        self._tables = LmdbTables(txn, self._dbs.slots[self._slot], path, writable=True)
