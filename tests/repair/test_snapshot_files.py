"""Goal: the ledger of a cell that runs is saved, judged and restored as another cell; the log is
read in words, from a peer that runs and from its data.

Method: a cell of one daemon with a toy engine, and the command line.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ha_scheduler.cli.main import main
from ha_scheduler.peer.members import founding
from tests.peer.toy_cell import ToyCell

SECRET = "value-of-a-user"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def ask(cell: ToyCell, *arguments: str) -> Result:
    return run(*arguments, "--peers", cell.peers, "--tls-dir", str(cell.base / "certs"))


@pytest.mark.system
def test_a_ledger_is_saved_while_its_cell_runs_and_restored_as_another_cell(
    tmp_path: Path,
) -> None:
    saved, data = tmp_path / "saved", tmp_path / "data" / "a"
    with ToyCell(tmp_path, names="a") as cell:
        cell.settled()
        former = (cell.status("a") or {})["cell_id"]
        cell.propose("a", SECRET, 50)
        cell.fed("a", SECRET, 50)
        done = ask(cell, "snapshot", "save", str(saved))
        assert done.exit_code == 0, done.stderr
        assert saved.stat().st_mode & 0o777 == 0o600
        assert "not overwritten" in ask(cell, "snapshot", "save", str(saved)).stderr

        lines = ask(cell, "log", "show", "--decode", "--last", "30").stdout.splitlines()
        assert len(lines) == 30
        assert "name=" in lines[0]
        bare = ask(cell, "log", "show").stdout
        assert "ValueSet" in bare
        assert "name=" not in bare

        held = json.loads(run("snapshot", "inspect", str(saved), "--format", "json").stdout)
        assert held["cell_id"] == former
        assert held["rows"]["values"] == 50
        assert [peer["name"] for peer in held["peers"]] == ["a"]
        cell.kill("a")
        offline = run("log", "show", "--offline", str(data), "--decode", "--last", "30")
        assert offline.stdout.splitlines()[-1].split()[0] >= lines[-1].split()[0]
        refused = run(
            "snapshot", "restore", str(saved), "--data-dir", str(data), "--peers", cell.peers
        )
        assert refused.exit_code == 2
        assert "is not overwritten" in refused.stderr
        shutil.rmtree(data)
        done = run(
            "snapshot", "restore", str(saved), "--data-dir", str(data), "--peers", cell.peers
        )
        assert done.exit_code == 0, done.stderr
        cell.start("a")
        cell.settled()
        cell.fed("a", SECRET, 50)
        status = cell.status("a") or {}
        assert status["predecessor"] == former
        assert status["cell_id"] not in ("", former)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a saved ledger."""
    from ha_scheduler.ledger.dump import dump
    from ha_scheduler.ledger.records import FORMAT
    from ha_scheduler.protocol import frames
    from ha_scheduler.protocol.control import SnapshotBegins
    from ha_scheduler.protocol.peer import SnapshotChunk
    from tests.storage.storage_helpers import Caller, entry, open_store, value

    caller = Caller()
    store = open_store(tmp_path_factory.mktemp("store") / "data", caller)
    log = tuple(entry(n, data=value(b"%d" % n)) for n in range(1, 30))
    caller.write(store, entries=log, apply=log)
    with store.view() as view:
        head = SnapshotBegins(FORMAT, "0", "a=h", "", "a", view.meta.index, view.meta.term, 1)
        chunks = [SnapshotChunk(chunk) for chunk in dump(view.tables)]
    store.close()
    return b"".join(map(frames.pack, (head, *chunks)))


@pytest.mark.parametrize("fault", ["cut", "flipped", "doubled", "empty", "other", "newer"])
def test_a_file_that_is_not_whole_is_refused_before_anything_is_written(
    saved: bytes, tmp_path: Path, fault: str
) -> None:
    middle = len(saved) * 2 // 3
    damaged = {
        "cut": saved[:middle],
        "flipped": saved[:middle] + bytes([saved[middle] ^ 1]) + saved[middle + 1 :],
        "doubled": saved + saved[-60:],
        "empty": b"",
        "other": b"#!/bin/sh\n" * 99,
        "newer": saved.replace(b"\xa6format\x03", b"\xa6format\x7f", 1),
    }[fault]
    file, data = tmp_path / "file", tmp_path / "data"
    file.write_bytes(damaged)
    for command in (["inspect"], ["restore", "--data-dir", str(data), "--peers", "a=127.0.0.1"]):
        done = run("snapshot", command[0], str(file), *command[1:])
        assert done.exit_code == 2, done.output
        assert (
            "no whole snapshot" in done.stderr
            or "no snapshot" in done.stderr
            or (fault == "newer" and "upgrade this one" in done.stderr)
        )
    assert not data.exists()


def test_a_restored_directory_is_of_one_peer_of_a_new_cell(saved: bytes, tmp_path: Path) -> None:
    file, data = tmp_path / "file", tmp_path / "data"
    file.write_bytes(saved)
    assert run("snapshot", "inspect", str(file)).exit_code == 0
    command = ("snapshot", "restore", str(file), "--data-dir", str(data), "--peers")
    three = run(*command, "a=10.0.0.1,b=10.0.0.2,c=10.0.0.3")
    assert "one peer alone" in three.stderr
    assert run(*command, "z=10.0.0.9").exit_code == 0
    known = founding.load(data)
    assert known is not None
    assert known.cell.names == ("z",)
