"""One peer's data directory, open for a repair.

Guarantee: no daemon runs on it meanwhile, and none can start (the lock of ``DataDirectory``). A
repair is one transaction, which also holds the sentence that says what was done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ha_scheduler.ledger.tables import Tables
from ha_scheduler.raft.messages import Entry, HardState, SnapshotMeta
from ha_scheduler.storage.directory import DataDirectory
from ha_scheduler.storage.environment import (
    Databases,
    Identity,
    open_existing,
    read_applied,
    read_dropped,
    read_hard_state,
    read_slot,
)
from ha_scheduler.storage.lmdb_tables import LmdbTables
from ha_scheduler.storage.log_table import Compacted, find_last, read_compacted, read_entry
from ha_scheduler.storage.schema import REPAIRS, get_fields, put_fields

REPAIRS_MAX = 100  # remembered, the latest

Repairs = tuple[tuple[float, str], ...]  # seconds since 1970, and what was done


@dataclass(frozen=True, slots=True)
class State:
    """What the directory holds besides the rows themselves."""

    hard_state: HardState
    applied: SnapshotMeta
    compacted: Compacted
    last_index: int
    dropped: dict[int, int]
    repairs: Repairs


class Offline:
    """The environment of ``identity``."""

    def __init__(self, path: Path, identity: Identity, dbs: Databases) -> None:
        self.path = path
        self.identity = identity
        self.dbs = dbs

    def state(self, txn: Any) -> State:
        compacted = read_compacted(txn, self.dbs.log_dbs)
        return State(
            read_hard_state(txn, self.dbs),
            read_applied(txn, self.dbs),
            compacted,
            find_last(txn, self.dbs.log_dbs, compacted),
            read_dropped(txn, self.dbs),
            get_fields(txn, self.dbs.peer, self.path, REPAIRS) or (),
        )

    def tables(self, txn: Any, *, writable: bool = False) -> Tables:
        slot = self.dbs.slots[read_slot(txn, self.dbs)]
        return LmdbTables(txn, slot, self.path, writable=writable)

    def entry(self, txn: Any, index: int) -> Entry:
        return read_entry(txn, self.dbs.log_dbs, index)[0]

    def write_down(self, txn: Any, sentence: str) -> None:
        """Remember what this transaction does."""
        before = get_fields(txn, self.dbs.peer, self.path, REPAIRS) or ()
        repairs = (*before, (time.time(), sentence))[-REPAIRS_MAX:]
        put_fields(txn, self.dbs.peer, REPAIRS, repairs)


@contextmanager
def opened(path: Path) -> Iterator[Offline]:
    """The data of a peer that does not run. Raises ``StorageError``."""
    directory = DataDirectory(path, create=False)
    try:
        identity, dbs = open_existing(directory)
        try:
            yield Offline(path, identity, dbs)
        finally:
            dbs.env.close()
    finally:
        directory.close()
