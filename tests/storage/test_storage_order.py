"""Goal: promises of the store that seeded bugs broke without any other test noticing."""

from __future__ import annotations

from pathlib import Path

import pytest
from storage_helpers import Caller, entries, open_store

from ha_scheduler.storage.errors import CorruptLog
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.storage.schema import index_key
from tests.twins.store import MemoryStore

NO_LIMIT = 1 << 40


def test_every_commit_is_synced_and_none_by_a_writable_map(tmp_path: Path) -> None:
    """By LMDB's own account: what the options were meant to say is not what counts."""
    store = open_store(tmp_path)
    flags = store._dbs.env.flags()
    store.close()
    assert {name: flags[name] for name in ("sync", "metasync", "writemap", "map_async")} == {
        "sync": True,
        "metasync": True,
        "writemap": False,
        "map_async": False,
    }


@pytest.mark.parametrize("kind", ["lmdb", "memory"])
def test_a_batch_is_seen_when_it_is_settled_though_later_ones_are_durable_too(
    tmp_path: Path, kind: str
) -> None:
    caller = Caller()
    store: LmdbStore | MemoryStore = (
        open_store(tmp_path, caller)
        if kind == "lmdb"
        else MemoryStore(on_durable=caller.on_durable)
    )
    first = caller.submit(store, entries=entries(1, 1))
    second = caller.submit(store, entries=entries(2, 2))
    assert caller.wait(second) is None
    store.settle(first)
    assert store.last_index() == 1
    store.settle(second)
    assert store.last_index() == 2
    store.close()


def _lose(store: LmdbStore, index: int) -> None:
    """A row goes, as when the disk lost the page that held it."""
    with store._dbs.env.begin(write=True) as txn:
        assert txn.delete(index_key(index), db=store._dbs.log)


@pytest.mark.parametrize(("lost", "lo", "hi"), [(3, 3, 5), (3, 2, 5), (4, 2, 5), (5, 4, 6)])
def test_a_row_that_is_missing_is_missed_whenever_it_is_read(
    tmp_path: Path, lost: int, lo: int, hi: int
) -> None:
    """At the beginning, in the middle or at the end of what is read: nobody gets a shorter log."""
    caller = Caller()
    store = open_store(tmp_path, caller, recent_bytes_max=0)
    caller.write(store, entries=entries(1, 5))
    _lose(store, lost)
    with pytest.raises(CorruptLog, match=rf"log entry {lost} \(it is missing\)"):
        store.entries(lo, hi, NO_LIMIT)
    store.close()
