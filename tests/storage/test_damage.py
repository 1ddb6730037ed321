"""Goal: whatever a disk gives back wrong is noticed before it is used, named, and not forgotten.

Method: the bytes of a real data file are changed, of a closed store and of one that is open: LMDB
maps the file, so what is written to it is what the store reads next.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest
from storage_helpers import Caller, entries, entry, open_store, state, value

from ha_scheduler.ledger.dump import dump
from ha_scheduler.ledger.tables import VALUES
from ha_scheduler.storage import scrub, transactional
from ha_scheduler.storage.environment import check_identity
from ha_scheduler.storage.errors import CorruptData, CorruptLedger, CorruptLog
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.storage.lmdb_tables import LmdbTables
from ha_scheduler.storage.schema import APPLIED, HARD_STATE, PEER_DB, put_fields
from ha_scheduler.storage.writer import NO_BATCH

NO_LIMIT = 1 << 40
PAGE = 4096
LAST = 40
CHANGED_PAGES = 60


def change(path: Path, needle: bytes, new: bytes) -> None:
    """Write ``new`` over every copy of ``needle``: LMDB leaves old ones in free pages."""
    with (path / "data.mdb").open("r+b") as file:
        data = file.read()
        at = data.find(needle)
        assert at >= 0
        while at >= 0:
            file.seek(at)
            file.write(new)
            at = data.find(needle, at + 1)


def flip(path: Path, needle: bytes) -> None:
    change(path, needle, bytes([needle[0] ^ 1]) + needle[1:])


def zero_pages(path: Path, needle: bytes) -> None:
    """As a disk that lost the pages on which ``needle`` is."""
    with (path / "data.mdb").open("r+b") as file:
        data = file.read()
        at = data.find(needle)
        assert at >= 0
        while at >= 0:
            file.seek(at - at % PAGE)
            file.write(bytes(PAGE))
            at = data.find(needle, at - at % PAGE + PAGE)


def marked(index: int) -> bytes:
    return b"needle-%d-" % index


def marked_entries() -> Any:
    return tuple(entry(n, data=value(marked(n), b"x" * 700)) for n in range(1, LAST + 1))


def fill(path: Path, caller: Caller | None = None, **options: Any) -> LmdbStore:
    """A store with a log of which all but the last entries are applied and only on the disk."""
    caller = caller or Caller()
    store = open_store(path, caller, recent_bytes_max=1, **options)
    new = marked_entries()
    caller.write(store, entries=new, apply=new[:-2], hard_state=state(1, 0, LAST - 2))
    return store


@pytest.fixture
def _short_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactional, "TAIL_BYTES", 1)


@pytest.fixture
def _no_scrub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub.Scrub, "start", lambda self: None)
    monkeypatch.setattr(scrub.Scrub, "stop", lambda self: None)


# -- at the start


def test_a_flipped_bit_in_the_log_is_found_at_open_and_named(tmp_path: Path) -> None:
    fill(tmp_path).close()
    flip(tmp_path, marked(LAST - 1))
    with pytest.raises(CorruptLog, match=rf"log entry {LAST - 1} .*must not take part") as caught:
        open_store(tmp_path)
    assert caught.value.index == LAST - 1
    assert "--replace" in str(caught.value)
    with pytest.raises(CorruptLog):  # the lock was released
        open_store(tmp_path)


@pytest.mark.parametrize("damage", ["hole", "moved", "foreign"])
@pytest.mark.parametrize("index", [3, LAST - 1], ids=["applied", "not-applied"])
@pytest.mark.usefixtures("_short_tail")
def test_a_log_whose_rows_do_not_follow_each_other_is_corrupt(
    tmp_path: Path, damage: str, index: int
) -> None:
    caller = Caller()
    fill(tmp_path / "data").close()
    foreign = open_store(tmp_path / "other", other := Caller())
    other.write(foreign, entries=entries(1, LAST, term=1, size=9))
    foreign.close()
    at, after = index.to_bytes(8, "big"), (index + 1).to_bytes(8, "big")
    with lmdb.open(str(tmp_path / "other"), max_dbs=64) as env, env.begin() as txn:
        stranger = txn.get(at, db=env.open_db(b"log", txn=txn))
    with lmdb.open(str(tmp_path / "data"), max_dbs=64) as env:
        log = env.open_db(b"log")
        with env.begin(write=True) as txn:
            if damage == "hole":
                txn.delete(at, db=log)
            else:
                new = stranger if damage == "foreign" else txn.get(after, db=log)
                txn.put(at, new, db=log)
    found: BaseException | None
    if index < LAST - 2 and damage != "hole":
        store = open_store(tmp_path / "data", caller)
        found = caller.wait(NO_BATCH)  # in the background
        store.close()
    else:
        with pytest.raises(CorruptLog) as caught:
            open_store(tmp_path / "data")
        found = caught.value
    assert isinstance(found, CorruptLog)
    assert found.index == index


def set_peer_row(path: Path, key: bytes, fields: tuple[Any, ...]) -> None:
    with lmdb.open(str(path), max_dbs=64) as env:
        peer = env.open_db(PEER_DB)
        with env.begin(write=True) as txn:
            put_fields(txn, peer, key, fields)


@pytest.mark.parametrize(
    ("key", "fields", "why"),
    [
        (HARD_STATE, (0, 3, 0), "term 0, but the log has an entry of term 1"),
        (APPLIED, (LAST + 1, 1, (1,), ()), f"entry {LAST + 1} of 1 to {LAST}"),
        (APPLIED, (LAST - 9, 7, (1,), ()), "its term is not that of entry"),
    ],
)
def test_rows_that_are_intact_but_of_another_time_are_found_at_open(
    tmp_path: Path, key: bytes, fields: tuple[Any, ...], why: str
) -> None:
    """A vote could be given twice by a peer that takes an older hard state for its own."""
    fill(tmp_path).close()
    set_peer_row(tmp_path, key, fields)
    with pytest.raises(CorruptLedger, match=rf"row {key.decode()} of table 'peer' \(.*{why}"):
        open_store(tmp_path)


def test_a_flipped_vote_is_found_at_open_and_named(tmp_path: Path) -> None:
    caller = Caller()
    store = open_store(tmp_path, caller)
    caller.write(store, hard_state=state(0x51525354, 0x61626364, 0))
    store.close()
    flip(tmp_path, bytes.fromhex("61626364"))
    with pytest.raises(CorruptLedger, match="row hard_state of table 'peer'"):
        open_store(tmp_path)


def test_a_file_that_is_no_environment_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(CorruptData, match=r"data\.mdb"):
        open_store(tmp_path)


@pytest.mark.parametrize("index", [2, LAST], ids=["applied", "not-applied"])
def test_a_zeroed_page_is_damage(tmp_path: Path, index: int) -> None:
    fill(tmp_path).close()
    zero_pages(tmp_path, marked(index))
    with pytest.raises(CorruptData, match="must not take part"):
        open_store(tmp_path)


@pytest.mark.parametrize("share", [0.15, 0.4, 0.6, 0.95])
def test_a_file_that_was_cut_short_is_damage_and_no_crash(tmp_path: Path, share: float) -> None:
    fill(tmp_path).close()
    file = tmp_path / "data.mdb"
    os.truncate(file, int(file.stat().st_size * share))
    check_identity(tmp_path, "cell", "a")  # looks only at what is certainly there
    with pytest.raises(CorruptData, match=r"data\.mdb|the identity") as caught:
        open_store(tmp_path)
    assert "--replace" in str(caught.value)
    with pytest.raises(CorruptData):
        open_store(tmp_path)


def test_free_pages_that_are_missing_at_the_end_of_the_file_are_no_damage(tmp_path: Path) -> None:
    """LMDB does not write a page that one transaction both takes and gives back."""
    caller = Caller()
    store = open_store(tmp_path, caller)
    caller.write(store, entries=entries(1, 2))
    caller.write(store, entries=entries(3, 9, size=100_000))
    new = store.entries(1, 10, NO_LIMIT)
    caller.write(store, apply=new, compact_to=9)
    for n in range(10, 14):
        caller.write(store, entries=entries(n, n))
    store.close()
    file = tmp_path / "data.mdb"
    os.truncate(file, file.stat().st_size - 2 * PAGE)
    store = open_store(tmp_path)
    assert (store.first_index(), store.last_index()) == (10, 13)
    store.close()


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_a_directory_that_lost_its_file_is_not_taken_for_a_new_one(
    tmp_path: Path, how: str, create: bool
) -> None:
    """It would vote a second time under the same id."""
    open_store(tmp_path).close()
    if how == "deleted":
        (tmp_path / "data.mdb").unlink()
    else:
        os.truncate(tmp_path / "data.mdb", 0)
    for _ in range(2):
        with pytest.raises(CorruptData, match=r"data\.mdb \(it was there.*--replace"):
            open_store(tmp_path, create=create)


# -- while it runs


def read_entry(store: LmdbStore, index: int) -> None:
    store.entries(index, index + 1, NO_LIMIT)


def read_ledger(store: LmdbStore, _: int) -> None:
    with store.view() as view:
        list(view.tables.scan(VALUES))


@pytest.mark.parametrize("harm", [flip, zero_pages])
@pytest.mark.parametrize("read", [read_entry, read_ledger])
@pytest.mark.usefixtures("_no_scrub")
def test_damage_found_by_a_reader_ends_the_store_and_bars_the_next_start(
    tmp_path: Path,
    harm: Callable[[Path, bytes], None],
    read: Callable[[LmdbStore, int], None],
) -> None:
    caller = Caller()
    store = fill(tmp_path, caller)
    read(store, 7)
    harm(tmp_path, marked(7))
    with pytest.raises(CorruptData, match="must not take part") as found:
        read(store, 7)
    assert caller.wait(NO_BATCH) is found.value
    with pytest.raises(CorruptData):  # a vote, for example, is not written any more
        caller.write(store, hard_state=state(5, 1, 0))
    store.close()
    for refused in (lambda: open_store(tmp_path), lambda: check_identity(tmp_path, "cell", "a")):
        with pytest.raises(CorruptData) as again:
            refused()
        assert str(again.value) == str(found.value)


READS: dict[str, Callable[[LmdbTables, bytes], object]] = {
    "get": lambda tables, key: tables.get(VALUES, key),
    "scan": lambda tables, _: list(tables.scan(VALUES)),
    "scan-of-writer": lambda tables, _: list(tables.scan(VALUES)),
    "keys": lambda tables, _: list(tables.keys(VALUES)),
    "keys-of-writer": lambda tables, _: list(tables.keys(VALUES)),
    "dump": lambda tables, _: list(dump(tables)),
}


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("place", ["key", "value"])
@pytest.mark.usefixtures("_no_scrub")
def test_every_way_to_read_the_ledger_notices_a_changed_row(
    tmp_path: Path, how: str, place: str
) -> None:
    store = open_store(tmp_path)
    with store._dbs.env.begin(write=True) as txn:
        tables = LmdbTables(txn, store._dbs.slots[0], tmp_path, writable=True)
        tables.put(VALUES, b"needle-key", b"needle-value")
    flip(tmp_path, b"needle-" + place.encode())
    with store._dbs.env.begin(write=how.endswith("writer")) as txn:
        tables = LmdbTables(txn, store._dbs.slots[0], tmp_path, writable=how.endswith("writer"))
        key = bytes([b"n"[0] ^ (place == "key")]) + b"eedle-key"
        with pytest.raises(CorruptLedger, match=f"row {key.hex()} of table 'values'"):
            READS[how](tables, key)
    store.close()


def test_rows_that_a_lost_page_has_doubled_or_swallowed_are_noticed(tmp_path: Path) -> None:
    """An old page of a table is intact, row for row; only its rows have long moved elsewhere."""
    store = open_store(tmp_path)
    with store._dbs.env.begin(write=True) as txn:
        tables = LmdbTables(txn, store._dbs.slots[0], tmp_path, writable=True)
        for n in range(40):
            tables.put(VALUES, b"needle-%02d" % n, bytes(1000))
    data = (tmp_path / "data.mdb").read_bytes()
    pages = {data.rfind(b"needle-%02d" % n) // PAGE for n in range(0, 40, 9)}
    one, other = sorted(pages)[1:3]
    with (tmp_path / "data.mdb").open("r+b") as file:
        file.seek(other * PAGE)
        file.write(data[one * PAGE : (one + 1) * PAGE])
    with store.view() as view, pytest.raises(CorruptLedger, match="it is not in its place"):
        list(view.tables.scan(VALUES))
    store.close()


def test_a_table_that_has_fewer_rows_than_were_put_is_damaged(tmp_path: Path) -> None:
    class Shorter:
        """A transaction of which the disk has lost a row."""

        def __init__(self, txn: Any) -> None:
            self.txn = txn
            self.cursor = txn.cursor

        def stat(self, db: Any) -> dict[str, int]:
            return {"entries": self.txn.stat(db)["entries"] + 1}

    store = open_store(tmp_path)
    with store._dbs.env.begin(write=True) as txn:
        LmdbTables(txn, store._dbs.slots[0], tmp_path, writable=True).put(VALUES, b"key", b"value")
    with store._dbs.env.begin() as txn:
        tables = LmdbTables(Shorter(txn), store._dbs.slots[0], tmp_path, writable=False)
        with pytest.raises(CorruptLedger, match="the last of 1 where 2 should be"):
            list(tables.scan(VALUES))
    store.close()


@pytest.mark.parametrize("compact_to", [0, LAST - 2], ids=["log", "ledger"])
@pytest.mark.usefixtures("_short_tail")
def test_damage_that_nobody_reads_is_found_in_the_background(
    tmp_path: Path, compact_to: int
) -> None:
    store = fill(tmp_path, filler := Caller())
    if compact_to:
        filler.write(store, compact_to=compact_to)
    store.close()
    flip(tmp_path, marked(7))
    caller = Caller()
    store = open_store(tmp_path, caller)
    error = caller.wait(NO_BATCH)
    assert isinstance(error, CorruptLedger if compact_to else CorruptLog)
    store.close()
    with pytest.raises(CorruptData, match="table 'values'" if compact_to else "log entry 7"):
        open_store(tmp_path)


@pytest.mark.usefixtures("_short_tail")
def test_the_background_reads_every_row_once_while_the_log_is_compacted_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fill(tmp_path, caller := Caller())
    monkeypatch.setattr(scrub, "perf_counter", iter(range(1000)).__next__)  # a slice is one row
    slices = scrub.verify(store._dbs, LAST - 1, 0.5)
    assert [next(slices) for _ in range(3)] == [1, 1, 1]
    caller.write(store, compact_to=20)
    assert sum(slices) == (LAST - 1 - 20) + len(marked_entries()[:-2])
    store.close()


def test_a_reader_finds_a_row_of_another_history_where_it_begins_to_read(tmp_path: Path) -> None:
    """Each row is intact; only the one before tells that this one does not belong here."""
    caller = Caller()
    store = open_store(tmp_path / "data", caller, recent_bytes_max=1)
    caller.write(store, entries=entries(1, 5), apply=entries(1, 4))
    foreign = open_store(tmp_path / "other", other := Caller())
    other.write(foreign, entries=entries(1, 3, size=3))
    with foreign._dbs.env.begin() as txn:
        stranger = txn.get((3).to_bytes(8, "big"), db=foreign._dbs.log)
    foreign.close()
    with store._dbs.env.begin(write=True) as txn:
        txn.put((3).to_bytes(8, "big"), stranger, db=store._dbs.log)
    with pytest.raises(CorruptLog, match=r"log entry 3 \(it does not follow"):
        read_entry(store, 3)
    store.close()


@pytest.mark.usefixtures("_no_scrub")
def test_damage_found_by_the_writer_ends_it_before_anything_is_built_on_it(tmp_path: Path) -> None:
    caller = Caller()
    store = fill(tmp_path, caller)
    flip(tmp_path, marked(LAST - 1))
    with pytest.raises(CorruptLog, match=f"log entry {LAST - 1} "):
        caller.write(store, entries=entries(LAST, LAST, term=2))  # chains to the damaged row
    store.close()
    with pytest.raises(CorruptData):
        open_store(tmp_path)


@pytest.mark.usefixtures("_no_scrub", "_short_tail")
def test_damage_found_by_the_writer_bars_the_next_start(tmp_path: Path) -> None:
    """In a row that opening does not read."""
    caller = Caller()
    store = fill(tmp_path, caller)
    flip(tmp_path, marked(7))
    with pytest.raises(CorruptLog, match="log entry 7 "):
        caller.write(store, compact_to=7)
    store.close()
    with pytest.raises(CorruptData, match="log entry 7 "):
        open_store(tmp_path)


# -- anywhere


def test_whatever_page_is_changed_nothing_wrong_is_read(tmp_path: Path) -> None:
    """A page that is in use is damage; damage to LMDB's own pages may abort the process."""
    script = Path(__file__).with_name("changed_pages.py")
    command = [sys.executable, str(script), str(tmp_path), str(CHANGED_PAGES)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    outcomes = Counter(line.split()[1] for line in done.stdout.splitlines())
    assert outcomes.total() == CHANGED_PAGES
    assert outcomes["damaged"] > CHANGED_PAGES / 4
    assert outcomes["aborted"] < CHANGED_PAGES / 20
    assert set(outcomes) <= {"same", "damaged", "aborted"}, done.stdout
