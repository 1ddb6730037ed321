"""The ledger of a peer that does not run, as its directory holds it."""

from __future__ import annotations

from pathlib import Path

import lmdb

from ha_scheduler.ledger.rebuild import digest
from ha_scheduler.storage.lmdb_tables import LmdbTables
from ha_scheduler.storage.schema import LEDGER, PEER_DB, SLOTS, get_fields


def digest_of(directory: Path) -> bytes:
    env = lmdb.open(str(directory), readonly=True, lock=False, max_dbs=64, lib_version=0)
    try:
        peer = env.open_db(PEER_DB, create=False)
        with env.begin() as txn:
            (slot,) = get_fields(txn, peer, directory, LEDGER)
        dbs = {table: env.open_db(name, create=False) for table, name in SLOTS[slot].items()}
        with env.begin() as txn:
            return digest(LmdbTables(txn, dbs, directory, writable=False))
    finally:
        env.close()
