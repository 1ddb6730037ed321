"""Goal: a ledger that another peer sent takes the place of the old one whole or not at all, and
never stands in memory as a whole.

Method: real directories; streams that break off, and processes that are killed between the
transactions of an installation.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from storage_helpers import Caller, entry, open_store, state, value

from ha_scheduler.ledger.dump import SnapshotDamagedError, dump
from ha_scheduler.ledger.rebuild import digest
from ha_scheduler.raft.messages import Membership, SnapshotMeta
from ha_scheduler.storage import staging
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.storage.port import SnapshotInstall

ROWS = 60
ROW_BYTES = 50_000
META = SnapshotMeta(100, 1, Membership((1,)))


def other_ledger(path: Path, name: bytes = b"new") -> tuple[list[bytes], bytes]:
    """The chunks of another peer's ledger, and its digest."""
    caller = Caller()
    store = open_store(path, caller)
    log = tuple(entry(n, 1, value(name + b"%d" % n, b"x" * ROW_BYTES)) for n in range(1, ROWS + 1))
    caller.write(store, entries=log, apply=log)
    with store.view() as view:
        chunks, seen = list(dump(view.tables)), digest(view.tables)
    store.close()
    return chunks, seen


def with_a_ledger(path: Path) -> tuple[LmdbStore, Caller, bytes]:
    caller = Caller()
    store = open_store(path, caller)
    own = tuple(entry(n, 1, value(b"old%d" % n)) for n in range(1, 6))
    caller.write(store, entries=own, apply=own)
    return store, caller, ledger_of(store)


def ledger_of(store: LmdbStore) -> bytes:
    with store.view() as view:
        return digest(view.tables)


def rows_beside(store: LmdbStore) -> int:
    """How many rows stand in the tables that are not in use."""
    with store._dbs.env.begin() as txn:
        unused = store._dbs.slots[1 - store._slot]
        return sum(txn.stat(db)["entries"] for db in unused.values())


def install(store: LmdbStore, caller: Caller, chunks: list[bytes], index: int = 100) -> None:
    meta = SnapshotMeta(index, 1, Membership((1,)))
    caller.write(store, hard_state=state(1, 0, index), snapshot=SnapshotInstall(meta, chunks))


def test_a_large_ledger_is_installed_in_transactions_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "STAGE_BYTES", ROWS * ROW_BYTES // 10)
    chunks, expected = other_ledger(tmp_path / "other")
    store, caller, _ = with_a_ledger(tmp_path / "own")
    before = store._dbs.env.info()["last_txnid"]
    install(store, caller, chunks)
    assert store._dbs.env.info()["last_txnid"] - before >= 9
    assert ledger_of(store) == expected
    assert rows_beside(store) == 0, "the old one takes no room"
    store.close()


def test_one_ledger_after_another_is_installed(tmp_path: Path) -> None:
    store, caller, _ = with_a_ledger(tmp_path / "own")
    for number in range(1, 4):
        chunks, expected = other_ledger(tmp_path / f"{number}", b"%d-" % number)
        install(store, caller, chunks, index=100 * number)
        assert ledger_of(store) == expected
        more = (entry(100 * number + 1, 1, value(b"more")),)
        caller.write(store, entries=more, apply=more)
        changed = ledger_of(store)
        assert changed != expected
        store.close()
        caller = Caller()
        store = open_store(tmp_path / "own", caller)
        assert ledger_of(store) == changed, "it is the same after a restart"
    store.close()


def test_a_view_from_before_shows_the_former_ledger_to_its_end(tmp_path: Path) -> None:
    chunks, expected = other_ledger(tmp_path / "other")
    store, caller, former = with_a_ledger(tmp_path / "own")
    with store.view() as view:
        install(store, caller, chunks)
        assert digest(view.tables) == former
    assert ledger_of(store) == expected
    store.close()


def test_a_stream_that_is_damaged_in_the_middle_leaves_log_and_ledger_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "STAGE_BYTES", ROW_BYTES)
    chunks, _ = other_ledger(tmp_path / "other")
    store, caller, former = with_a_ledger(tmp_path / "own")

    def broken() -> Iterator[bytes]:
        yield from chunks[: len(chunks) // 2]
        raise SnapshotDamagedError("the test says so")

    with pytest.raises(SnapshotDamagedError):
        caller.write(store, hard_state=state(1, 0, 100), snapshot=SnapshotInstall(META, broken()))
    store.close()
    assert_as_before(tmp_path / "own", former)


def test_a_process_killed_between_the_transactions_leaves_log_and_ledger_as_they_were(
    tmp_path: Path,
) -> None:
    chunks, expected = other_ledger(tmp_path / "other")
    (tmp_path / "chunks").write_bytes(b"".join(len(c).to_bytes(4, "big") + c for c in chunks))
    store, _, former = with_a_ledger(tmp_path / "own")
    store.close()
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from storage_helpers import Caller, open_store, state\n"
        "from ha_scheduler.raft.messages import Membership, SnapshotMeta\n"
        "from ha_scheduler.storage import staging\n"
        "from ha_scheduler.storage.port import SnapshotInstall\n"
        f"staging.STAGE_BYTES = {ROW_BYTES}\n"
        "def chunks():\n"
        "    data = Path(sys.argv[2]).read_bytes()\n"
        "    while data:\n"
        "        size = int.from_bytes(data[:4], 'big')\n"
        "        chunk, data = data[4 : 4 + size], data[4 + size :]\n"
        "        if not data:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield chunk\n"
        "caller = Caller()\n"
        "store = open_store(Path(sys.argv[1]), caller)\n"
        "install = SnapshotInstall(SnapshotMeta(100, 1, Membership((1,))), chunks())\n"
        "caller.write(store, hard_state=state(1, 0, 100), snapshot=install)\n"
    )
    arguments = [str(tmp_path / "own"), str(tmp_path / "chunks")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    store = assert_as_before(tmp_path / "own", former, close=False)
    caller = Caller()
    store.close()
    store = open_store(tmp_path / "own", caller)
    install(store, caller, chunks)
    assert ledger_of(store) == expected
    store.close()


def assert_as_before(path: Path, former: bytes, *, close: bool = True) -> LmdbStore:
    store = open_store(path)
    assert ledger_of(store) == former
    assert (store.first_index(), store.last_index(), store.applied()) == (1, 5, 5)
    assert rows_beside(store) == 0, "what was left behind is gone"
    if close:
        store.close()
    return store
