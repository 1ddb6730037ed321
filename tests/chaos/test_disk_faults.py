"""Disks that fail under a process, and files that are damaged: each is made, proved and undone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chaos.faults import files
from chaos.faults.base import CannotInject, parse
from chaos.faults.registry import FAULTS
from tests.chaos.toy_target import ToyTarget
from tests.deadlines import SCALE

#: Syncs a file over and over, and says how often it could.
WRITER = """
import os, sys
fd, synced = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), 0
while True:
    os.pwrite(fd, b"x", 0)
    try:
        os.fdatasync(fd)
    except OSError as error:
        print(error.errno, flush=True)
        break
"""


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Any]:
    with ToyTarget(tmp_path, "a", "b", "c") as target:
        yield target


def inject(target: Any, text: str) -> Any:
    call = parse(text)
    return FAULTS.of(call).inject(target, call.arguments, Random(3))


def test_syncs_of_a_running_process_fail_and_strace_says_so(target: Any, tmp_path: Path) -> None:
    if (why := FAULTS.of(parse("disk")).unavailable(target)) is not None:
        pytest.skip(why)
    target.replace("a", [sys.executable, "-c", WRITER, str(tmp_path / "file")])
    try:
        active = inject(target, "disk:eio-fsync:a")
    except CannotInject as error:
        pytest.skip(f"{error}")
    target.await_end("a", 10 * SCALE)
    active.heal()
    assert "a: 1" in active.proof()
    assert target.restarted == ["a"], "its daemon had ended"


def test_a_disk_that_nobody_wrote_to_proves_nothing(target: Any) -> None:
    if (why := FAULTS.of(parse("disk")).unavailable(target)) is not None:
        pytest.skip(why)
    try:
        active = inject(target, "disk:slow-fsync:b")
    except CannotInject as error:
        pytest.skip(f"{error}")
    active.heal()
    assert active.proof() is None
    assert target.restarted == []


@pytest.mark.parametrize("kind", ["bitflip", "torn-tail", "truncate"])
def test_a_file_is_damaged_behind_its_first_pages(tmp_path: Path, kind: str) -> None:
    file, before = tmp_path / "data.mdb", os.urandom(64 * files.PAGE_BYTES)
    file.write_bytes(before)
    assert files.CHANGES[kind](file, Random(1))
    after = file.read_bytes()
    kept = files.META_PAGES * files.PAGE_BYTES
    assert after[:kept] == before[:kept]
    assert after != before


def test_who_has_damaged_data_and_goes_on_keeps_it(
    target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FOUND_S_MAX", 0.1)
    target.directory("b").mkdir()
    (target.directory("b") / files.DATA_FILE).write_bytes(os.urandom(64 * files.PAGE_BYTES))
    active = inject(target, "damage:bitflip:b")
    assert "b:" in active.proof()
    assert target.restarted == ["b"]
    active.heal()
    assert target.restarted == ["b"]
    assert target.started_with == []


def test_who_has_ended_of_damage_gets_an_empty_disk(target: Any) -> None:
    target.directory("b").mkdir()
    (target.directory("b") / files.DATA_FILE).write_bytes(os.urandom(64 * files.PAGE_BYTES))
    active = inject(target, "damage:bitflip:b")
    target.signal("b", "both", 9)
    target.await_end("b", 10 * SCALE)
    active.heal()
    assert target.started_with == [files.REPLACE]
    assert list(target.directory("b").iterdir()) == []
    assert (active.kept / files.DATA_FILE).exists()


def test_a_token_that_was_taken_proves_a_failpoint_and_another_is_taken_back(target: Any) -> None:
    taken = inject(target, "failpoint:store.durable")
    left = inject(target, "failpoint:graph.arrived")
    assert taken.proof() is None
    (target.failpoints / "store.durable").unlink()
    taken.heal()
    left.heal()
    assert taken.proof() == "store.durable was reached"
    assert left.proof() is None
    assert list(target.failpoints.iterdir()) == []
