"""A journal on disk: what another process finds, who may write, and what damage costs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import lmdb
import pytest
from distributed.protocol.serialize import Pickled, Serialized

from client_replay.errors import (
    JournalDamaged,
    JournalFenced,
    JournalFull,
    JournalInUse,
    JournalUnusable,
)
from client_replay.journal import format as rows
from client_replay.journal import place
from client_replay.journal.disk import DiskKeeper
from client_replay.journal.file import Identity, JournalFile, Owner, lock_of, rewrite
from client_replay.journal.journal import Journal
from tests.journal.test_conformance import cancellation, graph, wait_until

LIMIT = 1 << 24
ME = Identity("a-session", "Client-1", "ha://a,b,c", 1.0, {"tls_ca_file": "/ca.pem"})


def begin(path: Path) -> Journal:
    return Journal(DiskKeeper.create(path, ME, LIMIT), bytes_max=LIMIT)


def crash(journal: Journal) -> None:
    """The process of the journal is gone: what it had queued was written, and nothing given up."""
    journal.wait_until_kept()
    keeper: Any = journal._keeper
    assert wait_until(lambda: keeper._kept == keeper._written)
    with mock.patch.object(JournalFile, "give_up"):
        journal.leave()


def resume(path: Path, **options: bool) -> Journal:
    with mock.patch.object(Owner, "is_alive", return_value=False):
        return Journal(DiskKeeper.resume(path, LIMIT, **options), bytes_max=LIMIT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "work.journal"


def large(*keys: Any, frames: int = 3) -> dict[str, Any]:
    sent = [os.urandom(700_000), bytearray(b"x"), memoryview(os.urandom(2_000_000))][:frames]
    return {
        "op": "update-graph",
        "expr_ser": Serialized({"serializer": "pickle", "n": 1}, sent),
        "code": Pickled({"pickled-obj": b"code"}, [b"frame"]),
        "keys": set(keys),
        "actors": None,
        "fifo_timeout": 60,
    }


# What another process finds


def test_an_open_request_is_found_as_it_was_sent(path: Path) -> None:
    journal = begin(path)
    sent = large("x", ("y", 1), b"z", 7)
    journal.append(sent, 2_700_001)
    journal.append(cancellation("x"), 1)
    crash(journal)
    again = resume(path)
    first, second = again.pending()
    assert (first.sequence, first.nbytes, second.message) == (1, 2_700_001, {
        **cancellation("x"), "keys": ("x",), "ha_sequence": 2,
    })  # fmt: skip
    assert first.message["keys"] == {"x", ("y", 1), b"z", 7}
    assert first.message["ha_sequence"] == 1
    assert first.message["code"].header == {"pickled-obj": b"code"}
    got = first.message["expr_ser"]
    assert got.header == sent["expr_ser"].header
    assert [bytes(frame) for frame in got.frames] == [bytes(f) for f in sent["expr_ser"].frames]
    again.close()


def test_what_has_committed_is_its_keys_and_what_is_done_with_is_nothing(path: Path) -> None:
    journal = begin(path)
    for keys in (("a", "b"), ("c",), ("d",)):
        journal.append(large(*keys), 3_000_000)
    journal.committed([1, 2])
    journal.done_with(["a", "c", "unknown"])
    journal.hold(["scattered", "taken"])
    journal.done_with(["taken"])
    crash(journal)
    again = resume(path)
    assert sorted(again.wanted()) == ["b", "d", "scattered"]
    assert [entry.sequence for entry in again.pending()] == [3]
    assert (again.floor, again.last) == (2, 3)
    again.committed([3])
    again.done_with(["b", "d", "scattered"])
    crash(again)
    file = JournalFile(path, bytes_max=LIMIT, create=False)
    assert (file.read().open, file.read().keys) == ({}, {})
    file.close()


def test_a_key_that_is_submitted_again_is_of_the_later_graph(path: Path) -> None:
    journal = begin(path)
    journal.append(graph("x", "y"), 1)
    journal.committed([1])
    journal.append(graph("x"), 1)
    journal.committed([2])
    journal.done_with(["x"])
    crash(journal)
    again = resume(path)
    assert again.wanted() == ["y"]
    again.append(graph("y"), 1)  # the first graph has no key left
    crash(again)
    file = JournalFile(path, bytes_max=LIMIT, create=False)
    assert file.read().keys == {3: ["y"]}
    file.close()


def test_no_number_is_used_twice_by_a_later_process(path: Path) -> None:
    journal = begin(path)
    journal.append(graph("x"), 1)
    journal.append(graph("y"), 1)
    journal.forget()
    crash(journal)
    again = resume(path)
    assert again.append(graph("z"), 1) == 3
    again.close()


def test_a_release_before_the_commit_does_not_lose_the_request(path: Path) -> None:
    """A leader may have it: its number has to be said again until that is known."""
    journal = begin(path)
    journal.append(graph("x"), 1)
    journal.done_with(["x"])
    crash(journal)
    again = resume(path)
    assert [entry.sequence for entry in again.pending()] == [1]
    assert again.wanted() == []
    again.committed([1])
    crash(again)
    file = JournalFile(path, bytes_max=LIMIT, create=False)
    assert (file.read().open, file.read().keys) == ({}, {})
    file.close()


def test_a_client_that_says_goodbye_leaves_no_file(path: Path) -> None:
    journal = begin(path)
    journal.append(graph("x"), 1)
    journal.close()
    assert list(path.parent.iterdir()) == []


# Whose it is


def test_nobody_else_can_read_it(path: Path) -> None:
    before = os.umask(0)
    try:
        journal = begin(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    journal.close()


def test_a_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    at = place.in_directory(tmp_path / "deep" / "journals", "Client-1")
    assert at.name == "Client-1.journal"
    assert stat.S_IMODE(at.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "fuse.sshfs", "CIFS", "beegfs", "9p"])
def test_a_file_system_of_the_network_is_refused_and_a_local_path_named(
    path: Path, kind: str
) -> None:
    with (
        mock.patch.object(place, "filesystem_of", return_value=kind),
        pytest.raises(JournalUnusable, match=r"network.*such as /var/tmp/.*\.journal"),
    ):
        begin(path)
    assert not path.exists()


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    def mount(point: str, kind: str) -> Any:
        return mock.Mock(mountpoint=point, fstype=kind)

    mounts = [mount("/", "ext4"), mount(str(tmp_path), "nfs4"), mount(f"{tmp_path}x", "tmpfs")]
    with mock.patch.object(place.psutil, "disk_partitions", return_value=mounts):
        assert place.filesystem_of(tmp_path / "deep") == "nfs4"
        assert place.filesystem_of(Path(f"{tmp_path}xy")) == "ext4"


def test_a_second_client_of_the_process_is_refused(path: Path) -> None:
    journal = begin(path)
    with pytest.raises(JournalInUse, match="another client of this process"):
        begin(path)
    journal.close()
    begin(path).close()


def test_a_journal_with_work_is_not_begun_anew(path: Path) -> None:
    journal = begin(path)
    journal.append(graph("x"), 1)
    crash(journal)
    with (
        mock.patch.object(Owner, "is_alive", return_value=False),
        pytest.raises(JournalInUse, match=r"1 requests.*client_replay\.resume"),
    ):
        begin(path)
    resume(path).close()


HOLD_IT = """
import sys
from pathlib import Path
from client_replay.journal.disk import DiskKeeper
from client_replay.journal.file import Identity
from client_replay.journal.journal import Journal
from client_replay.errors import JournalFenced
journal = Journal(DiskKeeper.create(Path(sys.argv[1]), Identity("s", "c"), 1 << 20))
journal.append({"op": "update-graph", "keys": {"x"}}, 1)
journal.wait_until_kept()
print("ready", flush=True)
for line in sys.stdin:
    try:
        journal.append({"op": "update-graph", "keys": {line}}, 1)
        journal.wait_until_kept()
        print("kept", flush=True)
    except JournalFenced as error:
        print("fenced", error.path, flush=True)
"""


def test_of_two_processes_the_second_is_refused_or_fences_the_first(path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD_IT, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        with pytest.raises(JournalInUse, match=rf"process {first.pid} on .*force=True"):
            DiskKeeper.resume(path, LIMIT)
        print("still there", file=first.stdin, flush=True)
        assert first.stdout.readline() == "kept\n"
        second = Journal(DiskKeeper.resume(path, LIMIT, force=True))
        assert len(second.pending()) == 2
        print("and now", file=first.stdin, flush=True)
        assert first.stdout.readline() == f"fenced {path}\n"
        assert second.append(graph("mine"), 1) == 3
        crash(second)
        third = resume(path)
        assert [entry.sequence for entry in third.pending()] == [1, 2, 3]
        third.close()
    finally:
        first.kill()
        first.communicate()


def test_a_journal_of_a_process_that_was_killed_is_free(path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD_IT, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert first.stdout is not None
    assert first.stdout.readline() == "ready\n"
    first.kill()
    first.communicate()
    journal = Journal(DiskKeeper.resume(path, LIMIT))
    assert journal.wanted() == ["x"]
    journal.close()


def test_a_process_of_another_machine_counts_as_alive() -> None:
    me = Owner.me()
    assert me.is_alive()
    assert Owner(me.token, me.pid, me.started, "elsewhere", me.since).is_alive()
    assert not Owner(me.token, me.pid, me.started + 1, me.host, me.since).is_alive()


# Damage


def written(path: Path, *graphs: dict[str, Any]) -> None:
    journal = begin(path)
    for message in graphs:
        journal.append(message, 1)
    crash(journal)


def spoil(path: Path, sequence: int, table: str = "entries") -> None:
    """Change one byte of a request."""
    env = lmdb.open(str(path), subdir=False, max_dbs=5, map_size=1 << 30, lib_version=0)
    with env.begin(write=True) as txn:
        db = env.open_db(table.encode(), txn=txn)
        cursor = txn.cursor(db=db)
        assert cursor.set_range(rows.sequence_key(sequence))
        row = bytearray(cursor.value())
        row[-1] ^= 1
        txn.put(cursor.key(), bytes(row), db=db)
    env.close()


@pytest.mark.parametrize("table", ["entries", "parts"])
def test_a_torn_tail_is_cut(path: Path, table: str, caplog: pytest.LogCaptureFixture) -> None:
    written(path, graph("x"), large("y", frames=1) if table == "entries" else large("y"))
    spoil(path, 2, table)
    journal = resume(path)
    assert [entry.sequence for entry in journal.pending()] == [1]
    assert journal.wanted() == ["x"]
    assert journal.append(graph("z"), 1) == 3  # not 2, which a leader may have seen
    assert any("torn off" in record.message for record in caplog.records)
    crash(journal)
    again = resume(path)
    assert len(again.pending()) == 2  # it is cut once
    again.close()


@pytest.mark.parametrize("table", ["entries", "parts"])
def test_a_corrupt_middle_is_reported_with_what_can_be_saved(path: Path, table: str) -> None:
    written(path, graph("x"), large("y"), graph("z"))
    spoil(path, 2, table)
    with pytest.raises(JournalDamaged, match=r"1 of its requests.*number 2.*2 that.*damaged=True"):
        resume(path)
    journal = resume(path, damaged=True)
    assert [entry.sequence for entry in journal.pending()] == [1, 3]
    assert sorted(journal.wanted()) == ["x", "z"]
    journal.close()


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_a_file_that_was_cut_short_is_read_as_far_as_it_goes(path: Path, share: float) -> None:
    written(path, *(large(f"k{i}") for i in range(4)))
    os.truncate(path, int(path.stat().st_size * share) // 4096 * 4096)
    try:
        journal = resume(path, damaged=True)
    except JournalUnusable:  # not even whose it is
        return
    assert {entry.sequence for entry in journal.pending()} <= {1, 2, 3, 4}
    for entry in journal.pending():
        assert len(entry.message["expr_ser"].frames[2]) == 2_000_000
    assert journal.append(graph("new"), 1) > 4
    journal.close()


@pytest.mark.parametrize("what", [b"", b"not a journal" * 1000, b"\0" * 8192])
def test_what_is_no_journal_is_left_as_it_is(path: Path, what: bytes) -> None:
    path.write_bytes(what)
    with pytest.raises(JournalUnusable):
        resume(path)
    assert path.read_bytes() == what


def test_a_file_that_is_not_there_is_not_made(path: Path) -> None:
    with pytest.raises(JournalUnusable, match="there is none"):
        resume(path)
    assert list(path.parent.iterdir()) == []


def test_a_journal_of_a_later_release_says_that_this_is_to_be_upgraded(path: Path) -> None:
    with mock.patch.object(rows, "FORMAT", 7):
        written(path, graph("x"))
    with pytest.raises(JournalUnusable, match=r"format 7.*Upgrade"):
        resume(path)


# A disk that does not take it


def test_a_full_disk_fails_what_it_cannot_keep_and_goes_on_when_there_is_room(path: Path) -> None:
    journal = begin(path)
    journal.append(graph("x"), 1)
    journal.wait_until_kept()
    failed: list[tuple[list[int], Exception]] = []
    journal.on_failed = lambda entries, error: failed.append(
        ([entry.sequence for entry in entries], error)
    )
    full = lmdb.DiskError("No space left on device")
    with mock.patch.object(JournalFile, "apply", side_effect=full):
        journal.append(graph("y"), 1)
        journal.committed([1])
        assert wait_until(lambda: bool(failed))
    ((sequences, error),) = failed
    assert sequences == [2]
    assert isinstance(error, JournalFull)
    assert "No space left" in str(error)
    assert journal.pending() == []
    assert journal.append(graph("z"), 1) == 3
    crash(journal)
    again = resume(path)
    assert [entry.sequence for entry in again.pending()] == [3]
    assert sorted(again.wanted()) == ["x", "z"]
    again.close()


def test_a_map_that_is_full_is_a_full_journal(path: Path) -> None:
    failed: list[Exception] = []
    journal = begin(path)
    keeper: Any = journal._keeper
    keeper._file._env.set_mapsize(1 << 20)
    journal.on_failed = lambda entries, error: failed.append(error)
    journal.append(large("x"), 2_700_001)
    assert wait_until(lambda: bool(failed))
    assert isinstance(failed[0], JournalFull)
    journal.close()


def test_a_fenced_journal_takes_nothing_more(path: Path) -> None:
    journal = begin(path)
    with mock.patch.object(JournalFile, "apply", side_effect=JournalFenced(path, "x", "y")):
        journal.append(graph("x"), 1)
        with pytest.raises(JournalFenced):
            journal.wait_until_kept()
    with pytest.raises(JournalFenced):
        journal.append(graph("y"), 1)
    journal.leave()


def test_a_file_that_is_written_anew_is_smaller_and_has_the_same(path: Path) -> None:
    written(path, *(large(f"k{i}") for i in range(4)), graph("x", "y"))
    journal = resume(path)
    journal.committed([1, 2, 3, 4])
    journal.done_with(["k0", "k1", "x"])
    crash(journal)
    before = path.stat().st_size
    file = JournalFile(path, bytes_max=LIMIT, create=False)
    contents = file.read()
    file.close()
    rewrite(path, contents, LIMIT)
    assert path.stat().st_size < before / 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not lock_of(path).exists()
    again = resume(path)
    assert sorted(again.wanted()) == ["k2", "k3", "y"]
    assert [entry.sequence for entry in again.pending()] == [5]
    again.close()
