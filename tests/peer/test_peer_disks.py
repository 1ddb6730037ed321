"""Goal: a disk that is full, fails or forgets ends its peer; the cell stays, nothing acknowledged
is lost, and the peer comes back when the disk does, or says why it does not.

Method: three real daemons. The disk of one is a small tmpfs that is filled up; or the system calls
of its running process are made to fail (strace); or bits of its file are flipped under it.
"Acknowledged" is what an engine was told is committed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from toy_cell import SCALE, ToyCell, within

pytestmark = [pytest.mark.system, pytest.mark.timeout(180 * SCALE)]

DISK_BYTES = 256 * 1024 * 1024  # holds a data directory and its reserve
LEFT_BYTES = 2 * 1024 * 1024  # that are free when the disk is "nearly full"
LARGE = 512 * 1024  # bytes of a record that does not fit in there often
REFUSED = 2  # exit status of a daemon that may not start
FAILED = 1  # of one that must not go on


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A tmpfs at ``path``. Skips where mounting is not permitted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError as error:
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"mounting a tmpfs is not permitted here: {error.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill_up(disk: Path, left: int) -> Path:
    """Take all of the disk but ``left`` bytes."""
    filler = disk / "filler"
    with filler.open("ab") as file:
        free = shutil.disk_usage(disk).free
        os.posix_fallocate(file.fileno(), file.tell(), max(free - left, 4096))
    return filler


@contextmanager
def failing(pid: int, call: str) -> Iterator[None]:
    """System calls of a running process fail as ``strace -e inject`` says."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: see scripts/install-system-packages")
    name = call.partition(":")[0]
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-e", f"trace={name}", "-e", f"inject={call}"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert tracer.stderr is not None
    first = tracer.stderr.readline()
    if "attached" not in first:
        tracer.wait()
        tracer.stderr.close()
        pytest.skip(f"tracing a process is not permitted here: {first.strip()}")
    try:
        yield
    finally:
        tracer.terminate()
        tracer.communicate()


def led_by(cell: ToyCell, name: str) -> None:
    """Let ``name`` lead: the disk of a leader is the harder case."""
    leader = cell.settled()
    if leader != name:
        assert cell.ask(leader, as_peer=leader, op="transfer", to=name)["ok"]
        assert cell.settled() == name


def ended(cell: ToyCell, name: str) -> int:
    return cell.daemons.pop(name).wait(timeout=30 * SCALE)


def goes_on(cell: ToyCell, but: str, tag: str) -> None:
    """The others have a leader and take new records."""
    successor = within(20, lambda: cell.leader(but=but))
    cell.propose(successor, tag, 20)
    for name in cell.daemons:
        cell.fed(name, tag, 20, seconds=20)


def comes_back(cell: ToyCell, name: str, acknowledged: set[str]) -> None:
    """``name`` starts again and its engine is told of everything that was acknowledged."""
    cell.start(name)
    cell.settled(60)
    within(20, lambda: acknowledged <= set(cell.values(name)), every=0.1)
    for other in cell.names:
        assert acknowledged <= set(cell.values(other))


def test_a_full_disk_ends_the_peer_and_its_reserve_brings_it_back(tmp_path: Path) -> None:
    cell = ToyCell(tmp_path)
    with small_disk(tmp_path / "data" / "a") as disk, cell:
        led_by(cell, "a")
        cell.propose("a", "x", 100)
        for name in cell.names:
            cell.fed(name, "x", 100)
        reserve = disk / "reserve"
        assert reserve.exists()
        filler = fill_up(disk, LEFT_BYTES)
        cell.propose("a", "large", 20, size=LARGE)
        assert ended(cell, "a") == FAILED
        assert "no room" in cell.log("a")
        assert "free space first" in cell.log("a")
        assert not reserve.exists()
        acknowledged = set(cell.values("a"))
        goes_on(cell, "a", "y")

        # The disk is as full as it was, but for the reserve: enough to make room.
        comes_back(cell, "a", acknowledged | {f"y-{n}" for n in range(20)})
        assert "nearly full" in cell.log("a")
        status = within(5, lambda: cell.status("a"))
        assert status["first_index"] > 100, "what was applied is deleted"

        # Now it is full to the last page.
        cell.kill("a")
        fill_up(disk, 0)
        cell.start("a")
        assert ended(cell, "a") == REFUSED
        goes_on(cell, "a", "z")
        filler.unlink()
        comes_back(cell, "a", acknowledged | {f"z-{n}" for n in range(20)})


@pytest.mark.parametrize(
    "call", ["fdatasync:error=EIO", "pwrite64:error=EIO", "pwrite64:error=ENOSPC"]
)
def test_a_disk_that_fails_ends_the_peer_and_nothing_acknowledged_is_lost(
    tmp_path: Path, call: str
) -> None:
    with ToyCell(tmp_path) as cell:
        led_by(cell, "a")
        cell.propose("a", "x", 100)
        for name in cell.names:
            cell.fed(name, "x", 100)
        with failing(cell.daemons["a"].pid, call):
            cell.propose("a", "y", 20)
            assert ended(cell, "a") == FAILED
        assert "CRITICAL" in cell.log("a")
        assert "Check the disk" in cell.log("a")
        acknowledged = set(cell.values("a"))
        assert {f"x-{n}" for n in range(100)} <= acknowledged
        goes_on(cell, "a", "z")
        comes_back(cell, "a", acknowledged | {f"z-{n}" for n in range(20)})


def test_a_live_follower_on_a_slow_disk_is_waited_for_before_the_log_is_cut(
    tmp_path: Path,
) -> None:
    """Of more than the leader sends it before it answers, so that the log must be read for it."""
    limits = {"ENTRIES_MAX": 100, "KEEP_ENTRIES": 10, "KEEP_BYTES": 1 << 20, "BUCKET_ENTRIES": 5}
    with ToyCell(tmp_path, limits={**limits, "HARD_FACTOR": 40}) as cell:
        leader = cell.settled()
        slow = next(name for name in cell.names if name != leader)
        delay_us = int(2_000_000 * SCALE)
        with failing(cell.daemons[slow].pid, f"fdatasync:delay_enter={delay_us}"):
            for burst in range(4):
                cell.propose(leader, f"x{burst}", 100, size=100_000)
                cell.fed(leader, f"x{burst}", 100, seconds=30)
            assert sum(value.startswith("x") for value in cell.values(slow)) < 300, "it lags"
        cell.fed(slow, "x3", 100, seconds=60)
        assert "snapshot" not in cell.log(slow)

        def cut() -> bool:
            cell.propose(leader, "more", 5)
            status = cell.status(leader)
            return status is not None and status["first_index"] > 300

        within(20, cut, every=0.2)


def flip_bits_of(data: Path, needle: bytes) -> None:
    with data.open("r+b") as file:
        content = file.read()
        at = content.find(needle)
        assert at >= 0
        while at >= 0:
            file.seek(at)
            file.write(bytes([needle[0] ^ 1]))
            at = content.find(needle, at + 1)


def test_bits_that_flip_under_a_running_peer_end_it_and_it_does_not_start_again(
    tmp_path: Path,
) -> None:
    with ToyCell(tmp_path) as cell:
        led_by(cell, "a")
        cell.propose("a", "needle", 100)
        for name in cell.names:
            cell.fed(name, "needle", 100)
        engine = cell.engine_pid("a")
        flip_bits_of(tmp_path / "data" / "a" / "data.mdb", b"needle-77")
        with suppress(ProcessLookupError):
            os.kill(engine, signal.SIGKILL)  # the next one is told of the whole ledger
        assert ended(cell, "a") == FAILED
        log = cell.log("a")
        assert "CRITICAL" in log
        assert "table 'values'" in log
        assert "--replace" in log
        within(5, lambda: not Path(f"/proc/{engine}").exists())
        goes_on(cell, "a", "y")
        began = time.monotonic()
        cell.start("a")
        assert ended(cell, "a") == REFUSED
        assert "table 'values'" in cell.log("a")[len(log) :]
        assert time.monotonic() - began < 10 * SCALE
