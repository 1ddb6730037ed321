"""A child process: killed with all it started, frozen and thawed, and gone with its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ha_scheduler.deploy.child import ChildProcess
from tests.deadlines import SCALE

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 20 * SCALE


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"after {DEADLINE_S:g} s still not: {what}"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def new_child(directory: Path, module: str = "tests.deploy.idle") -> ChildProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return ChildProcess("idle", module, [], directory / "logs" / "output.log", environment)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[ChildProcess]:
    child = new_child(tmp_path)
    yield child
    child.kill()


def grandchild(child: ChildProcess) -> int:
    wait_until(lambda: "idle" in child.tail(), "it has started its own child")
    return int(child.tail().split()[-1])


def test_what_it_prints_is_in_its_file(child: ChildProcess) -> None:
    assert child.tail() == ""
    child.start()
    wait_until(lambda: child.tail().startswith("idle "), "it has printed")


def test_kill_ends_it_and_everything_it_started(child: ChildProcess) -> None:
    child.start()
    below = grandchild(child)
    child.kill()
    assert not child.alive
    assert child.pid is None
    assert child.returncode == -signal.SIGKILL
    assert not runs(below)


def test_kill_ends_what_is_frozen(child: ChildProcess) -> None:
    child.start()
    below = grandchild(child)
    child.pause()
    child.kill()
    assert not child.alive
    assert not runs(below)


def test_pause_freezes_the_whole_family_and_resume_thaws_it(child: ChildProcess) -> None:
    child.start()
    pids = [grandchild(child), child.pid]

    child.pause()
    assert child.paused
    wait_until(
        lambda: {psutil.Process(pid).status() for pid in pids} == {psutil.STATUS_STOPPED},
        "both are stopped",
    )
    child.resume()
    assert not child.paused
    wait_until(
        lambda: psutil.STATUS_STOPPED not in {psutil.Process(pid).status() for pid in pids},
        "both run",
    )


def test_stop_asks_first_and_then_insists(child: ChildProcess) -> None:
    child.start()
    below = grandchild(child)
    asyncio.run(child.stop(DEADLINE_S))
    assert child.returncode == -signal.SIGTERM
    wait_until(lambda: not runs(below), "what is left of its session is swept")


def test_it_can_be_started_again_and_not_twice(child: ChildProcess) -> None:
    child.start()
    with pytest.raises(RuntimeError, match="already running"):
        child.start()
    first = child.pid
    child.kill()
    child.start()
    assert child.pid != first


def test_what_does_not_run_cannot_be_paused(child: ChildProcess) -> None:
    with pytest.raises(RuntimeError, match="cannot pause idle: it is not started"):
        child.pause()


def test_its_parents_end_by_kill_9_ends_it(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\n"
        "from tests.deploy.test_child import new_child\n"
        "child = new_child(pathlib.Path(sys.argv[1]))\n"
        "child.start()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        log = tmp_path / "logs" / "output.log"
        wait_until(lambda: "idle" in log.read_text(), "it has asked to die with its parent")
        parent.kill()
    wait_until(lambda: not runs(pid), "the child is gone")


def test_the_end_of_the_interpreter_ends_it(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\n"
        "from tests.deploy.test_child import grandchild, new_child\n"
        "child = new_child(pathlib.Path(sys.argv[1]))\n"
        "child.start()\n"
        "print(child.pid, grandchild(child), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    assert not any(runs(pid) for pid in pids)
