"""Goal: what was acknowledged is there after the power went, and the log verifies to its end.

Method: the store writes to an ext4 in a file (a loop device) as fast as it can. It is frozen, the
file is copied, and the copy is mounted as after a power cut: what the kernel had not written to the
disk yet is not in it. The same with a store that does not sync shows that the test can fail.

What it cannot show: a disk that lies about its own cache.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path

import pytest
from storage_helpers import open_store

from ha_scheduler.storage import scrub
from ha_scheduler.storage.errors import StorageError
from tests.deadlines import SCALE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 * SCALE)]

IMAGE_BYTES = 192 * 1024 * 1024
ROUNDS = 10  # power cuts
COMMITS = 150  # acknowledged before each

WINDOW = 8  # batches in flight

_COMMITTER = """
import sys
from collections import deque
from pathlib import Path
sys.path.insert(0, {tests!r})
import lmdb
from storage_helpers import Caller, entry, open_store, state, value
if sys.argv[2] == "unsafe":
    open_env = lmdb.open
    lmdb.open = lambda path, **options: open_env(path, **(options | dict(sync=False)))
caller = Caller()
store = open_store(Path(sys.argv[1]), caller)
n = store.last_index()
flying = deque()
while True:
    while len(flying) < {window}:
        n += 1
        new = entry(n, data=value(b"%d" % (n % 50), b"x" * (n * 997 % 20000)))
        done = {{"compact_to": n - 200}} if n > 200 else {{}}
        fields = dict(hard_state=state(1, 1, n), entries=(new,), apply=(new,), **done)
        flying.append((caller.submit(store, **fields), n))
    number, acknowledged = flying.popleft()
    if error := caller.wait(number):
        raise error
    store.settle(number)
    print(acknowledged, flush=True)
"""


@dataclass(frozen=True)
class Disk:
    image: Path
    mounted: Path


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    run("mount", "-o", "loop", str(image), str(at))
    try:
        yield at
    finally:
        run("umount", str(at))
        at.rmdir()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    image = tmp_path / "disk.image"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    try:
        run("mkfs.ext4", "-q", "-F", str(image))
        with mounted(image, tmp_path / "probe"):
            pass
    except OSError as error:
        pytest.skip(f"no ext4 on a loop device here: {error}")
    with mounted(image, tmp_path / "disk") as path:
        yield Disk(image, path)


def freeze(pid: int) -> None:
    """Stop the process, and wait until none of its threads is in the midst of a system call."""
    os.kill(pid, signal.SIGSTOP)
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    deadline = time.monotonic() + 10 * SCALE
    while any(t.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "T" for t in tasks):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def cut_the_power(disk: Disk, copy: Path, how: str) -> int:
    """Copy the disk in the midst of writing; the last number that was acknowledged by then."""
    script = _COMMITTER.format(tests=str(Path(__file__).parent), window=WINDOW)
    command = [sys.executable, "-c", script, str(disk.mounted / "data"), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(COMMITS)]
        freeze(process.pid)
        run("cp", "--sparse=always", str(disk.image), str(copy))
        process.kill()
        lines += process.stdout.read().splitlines(keepends=True)
    return max(int(line) for line in lines if line.endswith("\n"))


def found_after(copy: Path, at: Path) -> tuple[int, int]:
    """The last index and the applied one, all rows verified."""
    with mounted(copy, at) as path:
        store = open_store(path / "data", create=False)
        try:
            for _ in scrub.verify(store._dbs, store.last_index(), inf):
                pass
            return store.last_index(), store.applied()
        finally:
            store.close()


def test_everything_acknowledged_survives_a_loss_of_power(disk: Disk, tmp_path: Path) -> None:
    copy, at = tmp_path / "copy.image", tmp_path / "copy"
    for _ in range(ROUNDS):
        acknowledged = cut_the_power(disk, copy, "safe")
        last, applied = found_after(copy, at)
        assert acknowledged <= last <= acknowledged + WINDOW + 1
        assert applied == last


def test_the_same_loses_what_was_acknowledged_when_nothing_is_synced(
    disk: Disk, tmp_path: Path
) -> None:
    acknowledged = cut_the_power(disk, tmp_path / "copy.image", "unsafe")
    try:
        last, _ = found_after(tmp_path / "copy.image", tmp_path / "copy")
    except StorageError:
        return  # not even an identity
    assert last < acknowledged
