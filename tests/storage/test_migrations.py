"""Goal: a directory of an older release is brought up to date once and whole, one of a newer
release is left alone, and one that was never finished is begun again.

Method: real directories in the older format, made with LMDB itself; processes that are killed
inside the transaction.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import pytest
from storage_helpers import Caller, entries, open_store, state

from ha_scheduler.ledger import encoding
from ha_scheduler.ledger import records as r
from ha_scheduler.ledger.dump import dump
from ha_scheduler.ledger.rebuild import digest
from ha_scheduler.ledger.tables import DERIVED_TABLES
from ha_scheduler.raft.messages import Entry, EntryKind, Membership, SnapshotMeta
from ha_scheduler.storage.environment import check_identity
from ha_scheduler.storage.errors import DataDirectoryMissing, ForeignDataDirectory, NewerFormat
from ha_scheduler.storage.port import SnapshotInstall
from ha_scheduler.storage.schema import (
    APPLIED,
    CHAIN_START,
    FORMAT_VERSION,
    HARD_STATE,
    IDENTITY,
    LEDGER,
    LOG_DB,
    PEER_DB,
    SLOTS,
    TABLE_DBS,
    get_fields,
    index_key,
    put_fields,
    seal_entry,
)

NO_LIMIT = 1 << 40


def open_env(path: Path) -> Any:
    path.mkdir(exist_ok=True)
    return lmdb.open(str(path), max_dbs=64, map_size=1 << 30, lib_version=0)


def make_format_1(path: Path) -> None:
    """A directory as the first release left it: no id, three entries, a vote in term 2."""
    with open_env(path) as env:
        log, peer = env.open_db(LOG_DB), env.open_db(PEER_DB)
        for name in TABLE_DBS.values():
            env.open_db(name)
        with env.begin(write=True) as txn:
            put_fields(txn, peer, IDENTITY, (1, "cell", "a"))
            put_fields(txn, peer, HARD_STATE, (2, 3, 0))
            put_fields(txn, peer, APPLIED, (0, 0, (1, 2, 3), ()))
            crc = CHAIN_START
            for entry in entries(1, 3):
                row, crc = seal_entry(entry, crc)
                txn.put(index_key(entry.index), row, db=log)


def make_format_2(path: Path) -> None:
    """Take away from a directory what format 3 has added."""
    _, cell, peer, peer_id = identity(path)
    with open_env(path) as env, env.begin(write=True) as txn:
        for name in SLOTS[1].values():
            txn.drop(env.open_db(name, txn=txn, create=False))
        txn.delete(LEDGER, db=env.open_db(PEER_DB, txn=txn))
    set_identity(path, (2, cell, peer, peer_id))


def make_format_3(path: Path) -> None:
    """Take away from a directory what format 4 has added."""
    _, cell, peer, peer_id = identity(path)
    with open_env(path) as env, env.begin(write=True) as txn:
        for slot in SLOTS:
            for table in DERIVED_TABLES:
                txn.drop(env.open_db(slot[table], txn=txn, create=False))
    set_identity(path, (3, cell, peer, peer_id))


def identity(path: Path) -> Any:
    with open_env(path) as env, env.begin() as txn:
        return get_fields(txn, env.open_db(PEER_DB, txn=txn), path, IDENTITY)


def set_identity(path: Path, fields: tuple[Any, ...]) -> None:
    with open_env(path) as env:
        peer = env.open_db(PEER_DB)
        with env.begin(write=True) as txn:
            put_fields(txn, peer, IDENTITY, fields)


def killed_before_the_commit_of(where: str, path: Path) -> None:
    """Open ``path`` in a process that is killed after its last write, before the commit."""
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from storage_helpers import open_store\n"
        f"from ha_scheduler.storage import {where} as module\n"
        "put = module.put_fields\n"
        "def put_and_die(txn, db, key, fields):\n"
        "    put(txn, db, key, fields)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "module.put_fields = put_and_die\n"
        "open_store(Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_directory_of_format_1_gets_the_id_it_had_by_its_name(tmp_path: Path) -> None:
    make_format_1(tmp_path)
    store = open_store(tmp_path, peer_id=41)
    assert store.peer_id == 41
    assert store.initial_state() == (state(2, 3, 0), Membership((1, 2, 3)))
    assert [e.data for e in store.entries(1, 4, NO_LIMIT)] == [e.data for e in entries(1, 3)]
    store.close()
    assert identity(tmp_path) == (FORMAT_VERSION, "cell", "a", 41)


def test_a_directory_of_format_2_keeps_its_ledger_and_takes_in_the_next(tmp_path: Path) -> None:
    caller = Caller()
    store = open_store(tmp_path, caller)
    caller.write(store, entries=entries(1, 3), apply=entries(1, 3))
    with store.view() as view:
        chunks, before = list(dump(view.tables)), digest(view.tables)
    store.close()
    make_format_2(tmp_path)
    caller = Caller()
    store = open_store(tmp_path, caller)
    with store.view() as view:
        assert digest(view.tables) == before
    meta = SnapshotMeta(9, 1, Membership((1,)))
    caller.write(store, hard_state=state(1, 0, 9), snapshot=SnapshotInstall(meta, chunks))
    with store.view() as view:
        assert (digest(view.tables), view.applied) == (before, 9)
    store.close()


def test_a_directory_of_format_3_knows_who_names_a_session(tmp_path: Path) -> None:
    records = [
        r.ClientJoined("Client-a", "journal"),
        r.ClientJoined("Client-b", "journal"),
        r.SessionAdvanced("journal", 7),
        r.CallsOpened("calls", "journal"),
    ]
    log = [
        Entry(1, i, EntryKind.NORMAL, encoding.encode(record))
        for i, record in enumerate(records, 1)
    ]
    caller = Caller()
    store = open_store(tmp_path, caller)
    caller.write(store, entries=log, apply=log)
    with store.view() as view:
        rows = {table: list(view.tables.scan(table)) for table in DERIVED_TABLES}
    assert [len(found) for found in rows.values()] == [2, 1]
    store.close()
    make_format_3(tmp_path)
    store = open_store(tmp_path)
    with store.view() as view:
        assert {table: list(view.tables.scan(table)) for table in DERIVED_TABLES} == rows
    store.close()


def test_a_migration_killed_in_the_middle_leaves_the_old_format_and_is_begun_again(
    tmp_path: Path,
) -> None:
    make_format_1(tmp_path)
    killed_before_the_commit_of("migrations", tmp_path)
    assert identity(tmp_path) == (1, "cell", "a")
    store = open_store(tmp_path, peer_id=41)
    assert (store.peer_id, store.last_index()) == (41, 3)
    store.close()


def test_a_disk_keeps_its_id_whatever_is_asked_for_later(tmp_path: Path) -> None:
    store = open_store(tmp_path, peer_id=41)
    assert store.peer_id == 41
    store.close()
    store = open_store(tmp_path, peer_id=42)
    assert store.peer_id == 41
    store.close()


def test_a_migrated_directory_goes_on_like_any_other(tmp_path: Path) -> None:
    make_format_1(tmp_path)
    caller = Caller()
    store = open_store(tmp_path, caller)
    caller.write(store, hard_state=state(3, 1, 0), entries=entries(4, 5, term=3))
    store.close()
    store = open_store(tmp_path)
    assert [e.term for e in store.entries(1, 6, NO_LIMIT)] == [1, 1, 1, 3, 3]
    store.close()


def test_looking_at_a_directory_of_format_1_does_not_migrate_it(tmp_path: Path) -> None:
    make_format_1(tmp_path)
    before = (tmp_path / "data.mdb").read_bytes()
    check_identity(tmp_path, "cell", "a")
    with pytest.raises(ForeignDataDirectory, match="peer 'a' of cell 'cell'"):
        check_identity(tmp_path, "cell", "b")
    assert (tmp_path / "data.mdb").read_bytes() == before


def test_a_foreign_directory_of_format_1_is_refused_before_it_is_migrated(tmp_path: Path) -> None:
    make_format_1(tmp_path)
    before = (tmp_path / "data.mdb").read_bytes()
    with pytest.raises(ForeignDataDirectory, match="peer 'a' of cell 'cell'"):
        open_store(tmp_path, peer="b")
    assert (tmp_path / "data.mdb").read_bytes() == before


def test_a_directory_of_a_newer_release_is_refused_untouched(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    set_identity(tmp_path, (99, "cell", "a", 7, "what later releases add"))
    before = (tmp_path / "data.mdb").read_bytes()
    with pytest.raises(
        NewerFormat, match=rf"has format 99, this release knows up to {FORMAT_VERSION}:"
    ):
        open_store(tmp_path)
    with pytest.raises(NewerFormat, match="format 99"):
        check_identity(tmp_path, "cell", "a")
    assert (tmp_path / "data.mdb").read_bytes() == before


def test_an_absent_directory_is_not_created_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryMissing, match="correct the path"):
        open_store(tmp_path / "absent", create=False)
    assert not (tmp_path / "absent").exists()


def test_a_creation_interrupted_before_its_identity_is_begun_again(tmp_path: Path) -> None:
    open_env(tmp_path).close()
    with pytest.raises(DataDirectoryMissing):
        open_store(tmp_path, create=False)
    open_store(tmp_path).close()


def test_a_creation_killed_before_its_commit_is_begun_again(tmp_path: Path) -> None:
    killed_before_the_commit_of("environment", tmp_path)
    assert (tmp_path / "data.mdb").exists()
    store = open_store(tmp_path, peer_id=41)
    assert (store.peer_id, store.last_index()) == (41, 0)
    store.close()
