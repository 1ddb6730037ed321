"""Migrations of file formats.

Guarantee: a directory is migrated in one transaction or not at all; after a kill in the middle the
next start begins again. There is no way back: an older release refuses it (``NewerFormat``).

Order: the caller holds the lock and knows that the directory is its own. Each step takes the format
before it; the format version moves in the same transaction.

    1   first release
    2   the identity holds the Raft id of the disk. In format 1 it followed from the peer's name, so
        a peer that came back with an empty disk had the id, and the votes, of the lost one
    3   there are two sets of tables, and a row says which is the ledger. In format 2 a snapshot was
        one transaction, which held all of it in memory
    4   the ledger has derived tables (``ledger/indexes.py``)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ha_scheduler.ledger import indexes
from ha_scheduler.storage.lmdb_tables import LmdbTables
from ha_scheduler.storage.schema import (
    FORMAT_VERSION,
    IDENTITY,
    LEDGER,
    SLOTS,
    get_fields,
    put_fields,
)

#: Environment, transaction, handle of the peer's own rows, directory, the Raft id for a disk
#: without one.
Step = Callable[[Any, Any, Any, Path, int], None]


def migrate(env: Any, peer_db: Any, path: Path, found: int, peer_id: int) -> None:
    """Bring the format ``found`` up to date. Raises ``lmdb.Error`` and ``CorruptLedger``."""
    with env.begin(write=True) as txn:
        for version in range(found, FORMAT_VERSION):
            STEPS[version](env, txn, peer_db, path, peer_id)


def _add_peer_id(env: Any, txn: Any, peer_db: Any, path: Path, peer_id: int) -> None:
    _, cell, peer = get_fields(txn, peer_db, path, IDENTITY)
    put_fields(txn, peer_db, IDENTITY, (2, cell, peer, peer_id))


def _add_slot(env: Any, txn: Any, peer_db: Any, path: Path, peer_id: int) -> None:
    _, cell, peer, own_id = get_fields(txn, peer_db, path, IDENTITY)
    put_fields(txn, peer_db, LEDGER, (0,))
    put_fields(txn, peer_db, IDENTITY, (3, cell, peer, own_id))


def _derive_tables(env: Any, txn: Any, peer_db: Any, path: Path, peer_id: int) -> None:
    _, cell, peer, own_id = get_fields(txn, peer_db, path, IDENTITY)
    (slot,) = get_fields(txn, peer_db, path, LEDGER)
    dbs = {table: env.open_db(name, txn=txn) for table, name in SLOTS[slot].items()}
    indexes.fill(LmdbTables(txn, dbs, path, writable=True))
    put_fields(txn, peer_db, IDENTITY, (4, cell, peer, own_id))


STEPS: dict[int, Step] = {1: _add_peer_id, 2: _add_slot, 3: _derive_tables}
