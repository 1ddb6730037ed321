"""The audit log: what was recorded is there, and what was done to it afterwards is seen."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ha_scheduler.audit import files
from ha_scheduler.audit.chain import Event, Head, extend, parse
from ha_scheduler.audit.log import REPEAT_S, AuditLog
from ha_scheduler.cli.main import main
from ha_scheduler.security.identity import Identity, TokenRole

ALICE = Identity("alice", TokenRole.CLIENT, token_id="jti-1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A log of ten events, closed."""
    log = AuditLog(files.directory_of(tmp_path), "a")
    for number in range(8):
        log.record(Event.MEMBERSHIP, ALICE, what=f"removed peer {number}")
    log.close()
    return tmp_path


def current(data: Path) -> Path:
    return files.directory_of(data) / files.CURRENT


def lines(data: Path) -> list[bytes]:
    return list(files.lines_of(current(data)))


def rewrite(data: Path, changed: list[bytes]) -> None:
    current(data).write_bytes(b"".join(line + b"\n" for line in changed))


def problems(data: Path, noted: Head | None = None) -> list[str]:
    found = files.verify(files.directory_of(data), noted)[2]
    return [f"{problem.line} {problem.what}" for problem in found]


def test_a_line_says_what_happened_when_and_for_whom(data: Path) -> None:
    opened, first, *_, closed = [parse(line) for line in lines(data)]
    assert (opened or {})["event"] == "log-opened"
    assert (closed or {})["event"] == "log-closed"
    assert first is not None
    assert first.pop("at")
    assert first.pop("prev") != Head().hash
    assert first == {
        "n": 2,
        "event": "membership",
        "peer": "a",
        "subject": "alice",
        "role": "client",
        "token_id": "jti-1",
        "what": "removed peer 0",
    }
    assert problems(data) == []


def test_only_the_owner_reads_it(data: Path) -> None:
    assert stat.S_IMODE(files.directory_of(data).stat().st_mode) == 0o700
    for path in files.directory_of(data).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize("at", range(10))
def test_a_changed_line_is_seen_wherever_it_is(data: Path, at: int) -> None:
    changed = lines(data)
    changed[at] = changed[at].replace(b'"peer":"a"', b'"peer":"b"')
    rewrite(data, changed)
    assert problems(data)


@pytest.mark.parametrize("at", range(10))
def test_a_removed_line_is_seen_wherever_it_is(data: Path, at: int) -> None:
    changed = lines(data)
    del changed[at]
    rewrite(data, changed)
    assert problems(data)


@pytest.mark.parametrize("at", range(10))
def test_a_line_that_was_put_in_is_seen_wherever_it_is(data: Path, at: int) -> None:
    changed = lines(data)
    before = Head(at, "0" * 64)
    changed.insert(at, extend(before, 0.0, "forced", {})[0])
    rewrite(data, changed)
    assert problems(data)


@pytest.mark.parametrize("kept", range(10))
def test_a_removed_end_is_seen_by_the_head(data: Path, kept: int) -> None:
    rewrite(data, lines(data)[:kept])
    assert any("the end was removed" in problem for problem in problems(data))


def test_an_end_that_was_removed_with_the_head_is_seen_by_one_that_was_noted_elsewhere(
    data: Path,
) -> None:
    _, last, _ = files.verify(files.directory_of(data))
    rewrite(data, lines(data)[:5])
    (files.directory_of(data) / files.HEAD_FILE).unlink()
    log = AuditLog(files.directory_of(data), "a")  # goes on from there
    log.close()
    assert problems(data) == []
    assert any("10 was noted" in problem for problem in problems(data, last))


def test_a_whole_chain_that_was_written_anew_is_seen_by_a_noted_line(data: Path) -> None:
    noted = files.read_head(files.directory_of(data))
    head, forged = Head(), []
    for line in lines(data):
        body = parse(line) or {}
        kept = {name: body[name] for name in body if name not in ("n", "at", "prev", "event")}
        line, head = extend(head, 0.0, body["event"], {**kept, "what": "nothing at all"})
        forged.append(line)
    rewrite(data, forged)
    files.write_head(files.directory_of(data), head)
    assert problems(data) == []
    assert problems(data, noted) == ["10 is another line than the one that was noted"]


@pytest.mark.parametrize("cut", [1, 40, 100])
def test_a_torn_tail_is_cut_off_and_the_chain_goes_on(data: Path, cut: int) -> None:
    whole = current(data).read_bytes()
    (files.directory_of(data) / files.HEAD_FILE).write_text(str(Head(9, "0" * 64)))
    current(data).write_bytes(whole[:-cut])
    assert any("cut off" in problem for problem in problems(data))
    log = AuditLog(files.directory_of(data), "a")
    log.close()
    events = [(parse(line) or {})["event"] for line in lines(data)[-3:]]
    assert events == ["log-opened", "log-torn", "log-closed"]
    assert not any("cut off" in problem for problem in problems(data))


def test_a_log_that_was_shortened_says_so_in_its_next_line(data: Path) -> None:
    rewrite(data, lines(data)[:4])
    log = AuditLog(files.directory_of(data), "a")
    log.close()
    bodies = [parse(line) or {} for line in lines(data)]
    (missing,) = [body for body in bodies if body["event"] == "log-shortened"]
    assert (missing["last"], missing["noted"]) == (4, 10)


def test_it_is_rotated_and_bounded_and_one_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FILES_MAX", 3)
    directory = files.directory_of(tmp_path)
    log = AuditLog(directory, "a", file_bytes_max=2_000)
    for number in range(20):
        log.record(Event.FORCED, ALICE, what=f"transfer {number}")
    log.settle()
    early = len(files.paths(directory))
    assert files.verify(directory)[2] == []
    for number in range(100):
        log.record(Event.FORCED, ALICE, what=f"transfer {number}")
    log.close()
    assert (early, len(files.paths(directory))) == (3, 3)
    assert files.verify(directory)[2] == []
    files.paths(directory)[1].unlink()
    assert any("were removed" in problem for problem in problems(tmp_path))


def test_a_full_disk_costs_events_and_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, write = files.directory_of(tmp_path), os.write
    log = AuditLog(directory, "a")
    log.settle()
    full = True

    def write_on_full_disk(descriptor: int, data: bytes) -> int:
        if full and b'"prev"' in data:
            write(descriptor, data[:7])  # a part fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", write_on_full_disk)
    for number in range(5):
        log.record(Event.FORCED, what=number)
    log.settle()
    full = False
    log.record(Event.FORCED, what="after")
    log.close()
    bodies = [parse(line) or {} for line in lines(tmp_path)]
    assert [body["event"] for body in bodies[1:]] == ["log-gap", "forced", "log-closed"]
    assert bodies[1]["lost"] == 5
    assert problems(tmp_path) == []


def test_of_many_authentications_one_line_is_written_with_their_number(tmp_path: Path) -> None:
    now = [1_000_000.0]
    log = AuditLog(files.directory_of(tmp_path), "a", lambda: now[0])
    for _ in range(500):
        log.record(Event.AUTHENTICATED, ALICE, what="client")
    log.record(Event.REFUSED, what="a certificate of another authority")
    now[0] += REPEAT_S
    log.record(Event.AUTHENTICATED, ALICE, what="client")
    log.close()
    bodies = [parse(line) or {} for line in lines(tmp_path)]
    told = [(body["event"], body["times"]) for body in bodies if "times" in body]
    assert told == [("authenticated", 1), ("refused", 1), ("authenticated", 500)]


def test_no_secret_is_written(tmp_path: Path) -> None:
    log = AuditLog(files.directory_of(tmp_path), "a")
    log.record(Event.TOKEN, ALICE, token="CANARY", private_key="CANARY", password="CANARY")
    log.record(Event.TOKEN, ALICE, what="x" * 100_000)
    log.close()
    data = current(tmp_path).read_bytes()
    assert b"CANARY" not in data
    assert b"jti-1" in data
    assert max(map(len, data.splitlines())) < 1_000


def test_what_was_recorded_outlives_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from ha_scheduler.audit import files; "
        "from ha_scheduler.audit.log import AuditLog; from ha_scheduler.audit.chain import Event; "
        "log = AuditLog(files.directory_of(Path(sys.argv[1])), 'a'); "
        "log.record(Event.FORCED, what='transfer'); log.settle(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=30)
    assert b'"event":"forced"' in current(tmp_path).read_bytes()
    assert problems(tmp_path) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    directory = files.directory_of(tmp_path)
    directory.mkdir()
    (directory / files.CURRENT).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        AuditLog(directory, "a")


def run(*arguments: Any) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["audit", *map(str, arguments)], standalone_mode=False)
    return int(done.return_value or 0), done.output


def test_the_command_verifies_and_shows(data: Path) -> None:
    _, last, _ = files.verify(files.directory_of(data))
    assert run("verify", "--data-dir", data) == (
        0,
        f"10 lines, 0 problems; the last one is {last}.\n",
    )
    _, shown = run("show", "--data-dir", data, "--last", 2, "--event", "membership")
    assert shown.count("\n") == 2
    assert "removed peer 7" in shown
    rewrite(data, lines(data)[:-3])
    status, told = run("verify", "--data-dir", data, "--head", last)
    assert status == 1
    assert "Line 7 is the last one, and line 10 was noted: the end was removed." in told
