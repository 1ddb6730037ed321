"""Workers that die under a task while nobody leads."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import KilledWorker, Nanny, get_worker

from ha_scheduler.worker import executing
from ha_scheduler.worker.executing import SLOT_BYTES, SLOTS, Executing, make_file
from tests.engine.conftest import HAWorker, Pair, eventually, pair

gate = threading.Event()
ended: set[str] = set()  # workers whose tasks are to end


@pytest.fixture(autouse=True)
def _no_task_stays() -> Iterator[None]:
    gate.clear()
    ended.clear()
    yield
    gate.set()


@pytest.fixture
def _one_failure_is_allowed() -> Iterator[None]:
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        yield


def blocked() -> int:
    while not (gate.is_set() or get_worker().address in ended):
        gate.wait(0.02)
    return 1


def runs_on(both: Pair, key: str) -> Any:
    """The worker that executes the task for the leader, if any."""
    ts = both.leader.tasks.get(key)
    ws = ts.processing_on if ts is not None else None
    there = [worker for worker in both.workers if ws is not None and worker.address == ws.address]
    return next((w for w in there if key in {ts.key for ts in w.state.executing}), None)


async def killed_once(both: Pair) -> Any:
    """A task under which a worker has died already. Returns it, and the worker it is on now."""
    future = both.client.submit(blocked, key="killer")
    await eventually(lambda: runs_on(both, "killer") is not None)
    first = runs_on(both, "killer")
    await both.leader.remove_worker(first.address, stimulus_id="test")
    ended.add(first.address)
    await eventually(lambda: runs_on(both, "killer") not in (None, first))
    return future, runs_on(both, "killer")


async def die(worker: Any) -> None:
    """As seen by others: nothing listens at its address any more."""
    ended.add(worker.address)
    await worker.close(executor_wait=False)


@pytest.mark.usefixtures("_one_failure_is_allowed")
@pytest.mark.parametrize("rebuilt", [False, True])
async def test_a_second_death_counts_though_nobody_leads(rebuilt: bool) -> None:
    async with pair(3) as both:
        future, worker = await killed_once(both)
        other = both.client.submit(
            blocked, key="other", workers=[worker.address], allow_other_workers=True
        )
        await eventually(lambda: "other" in both.leader.tasks)
        await both.kill_leader()
        await die(worker)
        leader = await both.take_over(rebuilt=rebuilt)
        error = await future.exception()
        assert isinstance(error, KilledWorker)
        assert error.last_worker.address == worker.address
        assert leader.tasks["other"].suspicious == 0
        gate.set()
        assert await other == 1
        leader.validate_state()


@pytest.mark.usefixtures("_one_failure_is_allowed")
async def test_a_task_on_trial_whose_worker_lives_goes_on() -> None:
    async with pair(3) as both:
        future, worker = await killed_once(both)
        await both.kill_leader()
        leader = await both.take_over()
        assert leader.tasks["killer"].processing_on.address == worker.address
        assert leader.tasks["killer"].suspicious == 1
        gate.set()
        assert await future == 1
        future.release()
        await eventually(lambda: not leader.trials)


async def test_what_a_dead_worker_ran_counts_once_whoever_hears_of_it() -> None:
    async with pair(1) as both:
        future = both.client.submit(blocked, key="killer")
        await eventually(lambda: runs_on(both, "killer") is not None)
        run = both.leader.tasks["killer"].run_id
        await both.kill_leader()
        await die(both.workers[0])
        leader = await both.take_over()
        assert leader.tasks["killer"].suspicious == 0  # nobody has said so yet
        gate.set()
        successor = HAWorker(both.address, nthreads=1, dashboard_address=":0")
        successor.executing.before = (("killer", run), ("unknown", run), ("killer", 1))
        async with successor:
            assert await future == 1
            assert leader.tasks["killer"].suspicious == 1
            successor._ha.abandon("a test")
            await eventually(lambda: successor._ha.phase.name == "UP")
            assert leader.tasks["killer"].suspicious == 1


async def test_a_death_that_a_leader_saw_is_not_counted_again() -> None:
    async with pair(1) as both:
        future = both.client.submit(blocked, key="killer")
        await eventually(lambda: runs_on(both, "killer") is not None)
        run = both.leader.tasks["killer"].run_id
        await both.leader.remove_worker(both.workers[0].address, stimulus_id="test")
        assert both.leader.tasks["killer"].suspicious == 1
        gate.set()
        successor = HAWorker(both.address, nthreads=1, dashboard_address=":0")
        successor.executing.before = (("killer", run),)
        async with successor:
            assert await future == 1
            assert both.leader.tasks["killer"].suspicious == 1


def end_worker_when(path: str) -> int:
    Path(path, "began").touch()
    while not Path(path, "die").exists():
        time.sleep(0.01)
    if not Path(path, "died").exists():
        Path(path, "died").touch()
        os._exit(1)
    return 1


async def test_a_first_death_counts_though_nobody_leads_if_a_nanny_starts_the_next_worker(
    tmp_path: Path,
) -> None:
    async with (
        pair(0) as both,
        Nanny(both.address, nthreads=1, dashboard_address=":0") as nanny,
    ):
        future = both.client.submit(end_worker_when, str(tmp_path), key="killer")
        await eventually((tmp_path / "began").exists)
        await both.kill_leader()
        (tmp_path / "die").touch()
        await eventually((tmp_path / "died").exists)
        await both.take_over()
        assert await future == 1
        assert both.leader.tasks["killer"].suspicious == 1
        shared = nanny._executing
        assert shared.exists()
    assert not shared.exists()


# The file


def executing_in(path: Path) -> Executing:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(executing.ENVIRONMENT, str(path))
        return executing.executing_here()


ENDS = """
import os, sys
from ha_scheduler.worker.executing import executing_here
executing = executing_here()
assert "DASK_HA_EXECUTING" not in os.environ
with executing.run("over", 1):
    pass
with executing.run(("x", 0, (1.5, b"y")), 7), executing.run("k" * 2000, 8), executing.run("z", 9):
    os._exit(3)
"""


def test_the_runs_under_which_a_process_ended_are_told_to_the_next_one(tmp_path: Path) -> None:
    path = make_file(str(tmp_path))
    environment = {**os.environ, executing.ENVIRONMENT: str(path)}
    ended = subprocess.run([sys.executable, "-c", ENDS], env=environment, check=False)
    assert ended.returncode == 3
    following = executing_in(path)
    assert set(following.before) == {(("x", 0, (1.5, b"y")), 7), ("z", 9)}
    assert executing_in(path).before == ()


def test_a_process_that_closes_leaves_no_runs(tmp_path: Path) -> None:
    path = make_file(str(tmp_path))
    closing = executing_in(path)
    with closing.run("x", 1):
        closing.clear()
        assert executing_in(path).before == ()


def test_more_runs_than_there_are_slots_go_on_untold() -> None:
    pages = bytearray(SLOTS * SLOT_BYTES)
    full = Executing(pages)
    running = [full.run(f"key{number}", number) for number in range(SLOTS + 1)]
    for run in running:
        run.__enter__()
    assert len(Executing(bytearray(pages)).before) == SLOTS
    for run in running:
        run.__exit__(None, None, None)
    assert Executing(bytearray(pages)).before == ()


async def test_a_worker_without_a_nanny_is_as_any_other() -> None:
    async with pair(1) as both:
        assert await both.client.submit(asyncio.iscoroutine, 1) is False
        assert both.workers[0].executing.before == ()
