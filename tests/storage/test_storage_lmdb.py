"""Goal: what only a disk can do wrong is noticed, named and survived.

Method: real directories; faults are made with real means (SIGKILL, flipped bytes in the file, a
small map, a held lock), not with mocks.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import lmdb
import pytest
from storage_helpers import Caller, entries, entry, open_store, state, value

from ha_scheduler.ledger import encoding
from ha_scheduler.ledger import records as r
from ha_scheduler.ledger.dump import dump
from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.rebuild import digest
from ha_scheduler.ledger.tables import TABLES, VALUES
from ha_scheduler.raft.messages import Entry, Membership, SnapshotMeta
from ha_scheduler.storage import log_table, scrub, transactional, writer
from ha_scheduler.storage.directory import INCOMING_FILE, DataDirectory
from ha_scheduler.storage.environment import check_identity
from ha_scheduler.storage.errors import (
    DataDirectoryLocked,
    DiskFailed,
    DiskFull,
    ForeignDataDirectory,
    StoreOverloaded,
)
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.storage.lmdb_tables import LmdbTables
from ha_scheduler.storage.log_view import LogView
from ha_scheduler.storage.port import SnapshotInstall, WriteBatch
from tests.twins.tables import MemoryTables

NO_LIMIT = 1 << 40
ROUNDS_OF_KILLS = 5


_COMMITTER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from storage_helpers import Caller, entry, open_store, state, value
caller = Caller()
store = open_store(Path(sys.argv[1]), caller)
while True:
    n = store.last_index() + 1
    new = entry(n, data=value(b"%d" % (n % 50), b"x" * (n * 997 % 20000)))
    keep = store.applied() - 20
    done = {{"compact_to": keep}} if keep > 0 else {{}}
    caller.write(store, hard_state=state(1, 0, n), entries=(new,), apply=(new,), **done)
    print(n, flush=True)
"""


def test_a_killed_process_has_everything_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "data"
    script = _COMMITTER.format(tests=str(Path(__file__).parent))
    for _ in range(ROUNDS_OF_KILLS):
        acknowledged = _kill_after_some_commits(script, path)
        store = open_store(path, create=False)
        assert acknowledged <= store.last_index() <= acknowledged + 1
        assert store.applied() == store.last_index() == store.initial_state()[0].commit
        with store.view() as view:
            assert len(list(view.tables.scan(VALUES))) == min(50, store.last_index())
        store.close()


def _kill_after_some_commits(script: str, path: Path) -> int:
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(25):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().splitlines(keepends=True)
    whole = [int(line) for line in lines if line.endswith("\n")]
    if whole:
        return whole[-1]
    store = open_store(path, create=False)
    last = store.last_index()
    store.close()
    return last


def test_a_second_process_on_a_directory_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(DataDirectoryLocked, match="stop it first"):
        open_store(tmp_path)
    store.close()
    open_store(tmp_path).close()


@pytest.mark.parametrize("other", [{"cell": "other"}, {"peer": "b"}])
def test_a_directory_of_another_peer_is_refused_untouched(
    tmp_path: Path, other: dict[str, str]
) -> None:
    open_store(tmp_path).close()
    before = (tmp_path / "data.mdb").read_bytes()
    with pytest.raises(ForeignDataDirectory, match="peer 'a' of cell 'cell'"):
        open_store(tmp_path, **other)
    assert (tmp_path / "data.mdb").read_bytes() == before


def test_looking_at_a_directory_says_whose_it_is_and_writes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    check_identity(data, "cell", "a")
    assert not data.exists()
    store = open_store(data)
    with pytest.raises(DataDirectoryLocked):
        check_identity(data, "cell", "a")
    store.close()
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    check_identity(data, "cell", "a")
    with pytest.raises(ForeignDataDirectory, match="peer 'a' of cell 'cell'"):
        check_identity(data, "cell", "b")
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before


def test_a_full_map_ends_the_writing_and_keeps_what_was_committed(tmp_path: Path) -> None:
    caller = Caller()
    store = open_store(tmp_path, caller, map_bytes=2 * 1024 * 1024)
    caller.write(store, entries=entries(1, 5, size=1000))
    with pytest.raises(DiskFull, match="the map is full; free space"):
        caller.write(store, entries=entries(6, 20, size=500_000))
    with pytest.raises(DiskFailed):
        caller.write(store, entries=entries(21, 21))
    store.close()
    store = open_store(tmp_path, caller := Caller())
    assert store.last_index() == 5
    caller.write(store, entries=entries(6, 20, size=500_000))
    store.close()


def test_a_failed_commit_is_never_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = Caller()
    store = open_store(tmp_path, caller)
    calls: list[int] = []

    def write(txn: Any, batch: WriteBatch) -> None:
        calls.append(batch.number)
        raise lmdb.DiskError("Input/output error")

    monkeypatch.setattr(store, "_write", write)
    with pytest.raises(DiskFailed, match="this peer stops"):
        caller.write(store, entries=entries(1, 1))
    monkeypatch.undo()
    with pytest.raises(DiskFailed):
        caller.write(store, entries=entries(2, 2))
    assert calls == [1]
    store.close()
    assert open_store(tmp_path).last_index() == 0


def test_a_full_disk_gives_up_the_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = Caller()
    store = open_store(tmp_path, caller, reserve_bytes=1024 * 1024)
    assert (tmp_path / "reserve").stat().st_size == 1024 * 1024

    def write(txn: Any, batch: WriteBatch) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_write", write)
    with pytest.raises(DiskFull, match="free space first"):
        caller.write(store, entries=entries(1, 1))
    assert not (tmp_path / "reserve").exists()
    store.close()


def log_rows(store: LmdbStore) -> int:
    with store._dbs.env.begin() as txn:
        return int(txn.stat(store._dbs.log)["entries"])


def test_a_long_log_is_deleted_a_few_rows_a_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_table, "TRIM_ROWS", 100)
    caller = Caller()
    store = open_store(tmp_path, caller)
    for first in range(1, 1001, 250):
        new = entries(first, first + 249)
        caller.write(store, entries=new, apply=new)
    caller.write(store, compact_to=990)
    assert store.first_index() == 991, "for the core all of it is gone"
    assert log_rows(store) == 900
    caller.write(store, entries=entries(1001, 1050))
    assert log_rows(store) == 900 + 50 - 100 - 2 * 50, "faster than it grows"
    store.close()
    store = open_store(tmp_path, caller := Caller())
    assert store.first_index() == 301
    assert store.term(300) == 1
    caller.write(store, compact_to=990)
    for _ in range(8):
        caller.write(store, hard_state=state(1))
    assert log_rows(store) == 60
    store.close()


def test_a_snapshot_in_the_midst_of_a_deletion_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_table, "TRIM_ROWS", 10)
    caller = Caller()
    store = open_store(tmp_path / "data", caller)
    new = entries(1, 100)
    caller.write(store, entries=new, apply=new)
    caller.write(store, compact_to=90)
    with store.view() as view:
        chunks = list(dump(view.tables))
    meta = SnapshotMeta(500, 2, Membership((1,)))
    caller.write(store, snapshot=SnapshotInstall(meta, chunks), hard_state=state(2))
    caller.write(store, entries=entries(501, 502, term=2))
    store.close()
    store = open_store(tmp_path / "data")
    assert (store.first_index(), store.last_index(), log_rows(store)) == (501, 502, 2)
    store.close()


def test_a_start_without_room_for_a_reserve_deletes_what_is_applied(tmp_path: Path) -> None:
    caller = Caller()
    store = open_store(tmp_path, caller)
    new = entries(1, 3000)
    caller.write(store, entries=new, apply=new[:-2], hard_state=state(1, 0, 2998))
    store.close()
    store = open_store(tmp_path, caller := Caller(), reserve_bytes=1 << 60)
    assert (store.first_index(), store.last_index(), store.applied()) == (2999, 3000, 2998)
    assert log_rows(store) == 2
    caller.write(store, entries=entries(3001, 3001))
    store.close()
    store = open_store(tmp_path)
    assert [e.index for e in store.entries(2999, 3002, NO_LIMIT)] == [2999, 3000, 3001]
    store.close()


def test_a_start_that_cannot_make_room_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(tmp_path).close()
    monkeypatch.setattr(DataDirectory, "free_bytes", lambda self: 1_000_000)
    with pytest.raises(DiskFull, match="free space first"):
        open_store(tmp_path, reserve_bytes=1 << 60)


def test_a_start_makes_room_of_what_had_come_of_a_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be what has filled the disk, and the log need not go for it."""
    caller = Caller()
    store = open_store(tmp_path, caller)
    new = entries(1, 10)
    caller.write(store, entries=new, apply=new, hard_state=state(1, 0, 10))
    store.close()
    incoming = tmp_path / INCOMING_FILE
    incoming.write_bytes(b"x")
    (tmp_path / "reserve").unlink()  # given up when the disk was full
    room = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(DataDirectory, "free_bytes", lambda self: 0 if incoming.exists() else room)
    store = open_store(tmp_path, reserve_bytes=1 << 20)
    assert (store.first_index(), store.last_index()) == (1, 10)
    store.close()


def test_what_opening_left_on_the_disk_is_fetched_when_it_is_asked_for() -> None:
    asked: list[tuple[int, int]] = []

    def fetch(lo: int, hi: int, max_bytes: int) -> tuple[Entry, ...]:
        asked.append((lo, hi))
        return entries(lo, hi - 1)

    view = LogView(state(2), SnapshotMeta(0, 0, Membership(())), (0, 0), fetch)
    view.skip(10, [(1, 1), (4, 2)])
    assert (view.last_index(), view.term(3), view.term(10)) == (10, 1, 2)
    assert list(view.entries(3, 11, NO_LIMIT)) == list(entries(3, 10))
    assert asked == [(3, 11)]


def test_opening_reads_the_end_of_a_long_log_and_knows_all_its_terms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller()
    store = open_store(tmp_path, caller)
    for term, first, last in ((1, 1, 700), (2, 701, 701), (5, 702, 1500), (9, 1501, 2000)):
        new = entries(first, last, term)
        caller.write(store, entries=new, apply=new)
    store.close()
    monkeypatch.setattr(transactional, "TAIL_BYTES", 10_000)
    read: list[int] = []
    open_entry = log_table.open_entry
    monkeypatch.setattr(
        log_table, "open_entry", lambda *row: (read.append(row[1]), open_entry(*row))[1]
    )
    monkeypatch.setattr(scrub.Scrub, "start", lambda self: None)
    monkeypatch.setattr(scrub.Scrub, "stop", lambda self: None)
    store = open_store(tmp_path)
    assert len([index for index in read if index < store.verified_from]) < 60
    assert len(read) < 500
    terms = [store.term(n) for n in range(1, 2001)]
    assert terms == [1] * 700 + [2] + [5] * 799 + [9] * 500
    found = store.entries(690, 1999, NO_LIMIT)
    assert [(e.index, e.term) for e in found] == list(enumerate(terms, 1))[689:1998]
    store.close()


def transactions(store: LmdbStore) -> int:
    """How many have committed in the life of the file."""
    return int(store._dbs.env.info()["last_txnid"])


class HeldCommits:
    """Holds the writer in its first transaction until released."""

    def __init__(self, store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        original = store._write

        def write(txn: Any, batch: WriteBatch) -> None:
            if batch.number == 1:
                self.entered.set()
                assert self.release.wait(10)
            original(txn, batch)

        monkeypatch.setattr(store, "_write", write)


def test_batches_submitted_during_an_fsync_share_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller()
    store = open_store(tmp_path, caller)
    held, before = HeldCommits(store, monkeypatch), transactions(store)
    caller.submit(store, entries=entries(1, 1))
    assert held.entered.wait(10)
    for n in range(2, 101):
        caller.submit(store, entries=entries(n, n), hard_state=state(1, 0, n - 1))
    held.release.set()
    caller.wait(100)
    assert transactions(store) == before + 2
    store.settle(100)
    assert store.last_index() == 100
    store.close()


def test_a_newer_commit_index_takes_no_fsync_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "COMPANY_WAIT_S", 60.0)
    caller = Caller()
    store = open_store(tmp_path, caller)
    before = transactions(store)
    caller.write(store, hard_state=state(1, 0, 0), entries=entries(1, 1))
    commit = {"hard_state": state(1, 0, 1), "apply": entries(1, 1), "applied_index": 1}
    caller.submit(store, **commit, must_sync=False)
    caller.write(store, entries=entries(2, 2))
    assert transactions(store) == before + 2
    caller.write(store, hard_state=state(2, 1, 1))
    assert transactions(store) == before + 3, "a vote waits for nobody"
    store.close()


def test_the_queue_is_bounded_and_a_refused_batch_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "QUEUE_BATCHES_MAX", 3)
    caller = Caller()
    store = open_store(tmp_path, caller)
    held = HeldCommits(store, monkeypatch)
    caller.submit(store, entries=entries(1, 1))
    assert held.entered.wait(10)
    for n in range(2, 5):
        caller.submit(store, entries=entries(n, n))
    with pytest.raises(StoreOverloaded, match="wait for completions"):
        caller.submit(store, entries=entries(5, 5))
    held.release.set()
    caller.wait(4)
    caller.write(store, entries=entries(5, 5))
    assert store.last_index() == 5
    store.close()


def test_hard_state_and_entries_of_a_batch_are_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two, neither is there (a vote must not outlive its log, or reverse)."""
    caller = Caller()
    store = open_store(tmp_path, caller)
    caller.write(store, hard_state=state(1, 1, 0), entries=entries(1, 1))

    def append(txn: Any, new: Any) -> None:
        raise lmdb.DiskError("power loss")

    monkeypatch.setattr(store._log, "append", append)
    with pytest.raises(DiskFailed):
        caller.write(store, hard_state=state(2, 3, 1), entries=entries(2, 2))
    store.close()
    store = open_store(tmp_path)
    assert store.initial_state()[0] == state(1, 1, 0)
    assert store.last_index() == 1
    store.close()


def test_a_damaged_snapshot_leaves_log_and_ledger_as_they_were(tmp_path: Path) -> None:
    caller = Caller()
    store = open_store(tmp_path, caller)
    new = entry(1, data=value(b"name"))
    caller.write(store, entries=(new,), apply=(new,))
    meta = store.snapshot()
    number = caller.submit(store, snapshot=SnapshotInstall(meta, [b"not a chunk at all"]))
    assert "ask for it again" in str(caller.wait(number))
    store.close()
    store = open_store(tmp_path)
    assert (store.first_index(), store.last_index()) == (1, 1)
    with store.view() as view:
        assert len(list(view.tables.scan(VALUES))) == 1
    store.close()


def test_the_fold_leaves_the_same_rows_in_lmdb_as_in_memory(tmp_path: Path) -> None:
    graph = (1 << 32) | 1
    keys = tuple(b"key-%d" % n for n in range(200))
    history: list[Any] = [
        r.TermStarted(1, "a"),
        r.ClientJoined("c", "s"),
        *(r.BlobPart(1, 1, n, b"x" * 1000) for n in range(5)),
        r.GraphSubmitted(graph, "c", "s", 1, b"", 1, 5),
        *(r.Desired(graph, "c", keys) for _ in range(3)),
        r.Released(graph, "c", keys[:50]),
        r.Erred(graph, keys[60], b"e"),
        r.Forgotten(graph, keys[:50]),
        r.Scattered("c", keys[:3]),
        r.BlobPart(1, 2, 0, b"loose"),
        r.TermStarted(2, "b"),
    ]
    twin = MemoryTables()
    committed = tuple(entry(n, data=encoding.encode(rec)) for n, rec in enumerate(history, start=1))
    for done in committed:
        fold(twin, done.index, done.term, done.data)
    caller = Caller()
    store = open_store(tmp_path, caller)
    caller.write(store, entries=committed, apply=committed)
    with store.view() as view:
        for table in TABLES:
            assert list(view.tables.scan(table)) == list(twin.scan(table))
        assert digest(view.tables) == digest(twin)
    ends = (r.GraphsRetired((graph,)), r.ClientLeft("c"), r.Restarted())
    more = tuple(
        entry(n, data=encoding.encode(rec)) for n, rec in enumerate(ends, start=len(history) + 1)
    )
    for done in more:
        fold(twin, done.index, done.term, done.data)
    caller.write(store, entries=more, apply=more)
    with store.view() as view:
        for table in TABLES:
            assert list(view.tables.scan(table)) == list(twin.scan(table))
    store.close()


def test_rows_may_be_deleted_during_a_scan(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with store._dbs.env.begin(write=True) as txn:
        tables = LmdbTables(txn, store._dbs.slots[0], tmp_path, writable=True)
        for n in range(100):
            tables.put(VALUES, n.to_bytes(2, "big"), b"v")
        seen = 0
        for key, _ in tables.scan(VALUES):
            tables.delete(VALUES, key)
            seen += 1
        assert seen == 100
        assert not list(tables.keys(VALUES))
        tables.put(VALUES, b"\xff\xff", b"last")
        assert tables.delete_prefix(VALUES, b"\xff") == 1
    store.close()


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    path = tmp_path / "data"
    open_store(path).close()
    assert path.stat().st_mode & 0o077 == 0
    assert all(os.stat(path / name).st_mode & 0o077 == 0 for name in ("data.mdb", "lock"))
