"""What a new leader knows beyond the tasks: how they went so far, and how long they take."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from pathlib import Path

import pytest
from distributed import KilledWorker
from distributed.scheduler import TaskPrefix
from distributed.worker_state_machine import RUN_ID_SENTINEL

from ha_scheduler.engine.extensions.statistics import PREFIXES_MAX, STATISTICS
from ha_scheduler.engine.takeover.attempts import ATTEMPTS
from tests.engine.conftest import (
    KeptLog,
    eventually,
    follow,
    leading,
    new_scheduler,
    pair,
    rebuild,
)

gate = threading.Event()


def fail_thrice(tries: str) -> None:
    """Each run but the second ends at once."""
    with open(tries, "a") as file:
        file.write("x")
    if os.path.getsize(tries) == 2:
        gate.wait(30)
    raise ValueError("again")


def fail_twice(tries: str) -> int:
    """The second run waits before it fails."""
    with open(tries, "a") as file:
        file.write("x")
    if os.path.getsize(tries) == 2:
        gate.wait(30)
    if os.path.getsize(tries) <= 2:
        raise ValueError("again")
    return 70


async def test_a_retry_that_is_used_up_stays_used_up_under_a_new_leader(tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    gate.clear()
    async with pair(workers=1) as both:
        future = both.client.submit(fail_thrice, str(tries), retries=2, key="fail")
        await eventually(lambda: tries.exists() and tries.stat().st_size == 2)
        await eventually(lambda: both.leader.attempts.get("fail", (9,))[0] == 1)
        await both.kill_leader()
        leader = await both.take_over()
        assert leader.tasks["fail"].retries == 1
        gate.set()
        assert isinstance(await future.exception(), ValueError)
        assert tries.stat().st_size == 3


@pytest.mark.parametrize("rebuilt", [False, True])
async def test_a_failure_takes_no_second_retry_if_its_worker_was_not_told_to_try_again(
    tmp_path: Path, rebuilt: bool
) -> None:
    tries = tmp_path / "tries"
    gate.clear()
    async with pair(workers=1) as both:
        future = both.client.submit(fail_twice, str(tries), retries=2, key="fail")
        await eventually(lambda: tries.exists() and tries.stat().st_size == 2)
        for stream in both.leader.stream_comms.values():
            stream.send = lambda *messages: None
        gate.set()
        await eventually(lambda: both.leader.attempts["fail"][0] == 0)
        await both.kill_leader()
        await both.take_over(rebuilt=rebuilt)
        assert await future == 70
        assert tries.stat().st_size == 3


async def test_workers_that_died_under_a_task_are_counted_across_leaders() -> None:
    async with pair(workers=1) as both:
        both.leader.allowed_failures = 1
        future = both.client.submit(os.getpid, key="killer", workers=["nowhere"])
        await eventually(lambda: "killer" in both.leader.tasks)
        ts = both.leader.tasks["killer"]
        ts.suspicious = 1
        both.leader.note_attempt(ts, RUN_ID_SENTINEL)
        await both.kill_leader()
        leader = await both.take_over()
        assert leader.tasks["killer"].suspicious == 1
        future.release()
        await eventually(lambda: not leader.attempts)


async def test_a_count_is_taken_back_when_its_task_is_forgotten() -> None:
    log = KeptLog()

    def fail_once(path: str) -> int:
        try:
            os.mkdir(path)
        except FileExistsError:
            return 1
        raise ValueError("once")

    async with leading(log, workers=1) as (scheduler, client, _):
        path = os.path.join(tempfile.mkdtemp(), "once")
        future = client.submit(fail_once, path, retries=3, key="once")
        assert await future == 1
        (count,) = scheduler.attempts.values()
        assert count[:2] == (2, 0)
        assert follow(log.records).attempts == {"once": count}
        assert rebuild(log.records).attempts == {"once": count}
        future.release()
        await eventually(lambda: not scheduler.attempts)
        assert scheduler.recorder is not None
        scheduler.recorder.flush()
        assert follow(log.records).attempts == {}


async def test_a_worker_that_dies_raises_the_count_of_what_it_ran() -> None:
    log = KeptLog()
    async with leading(log, workers=2) as (scheduler, client, _):
        release = asyncio.Event()

        async def wait() -> None:
            await release.wait()

        scheduler.allowed_failures = 0
        future = client.submit(wait, key="wait")
        await eventually(
            lambda: "wait" in scheduler.tasks and scheduler.tasks["wait"].state == "processing"
        )
        address = scheduler.tasks["wait"].processing_on.address
        await scheduler.remove_worker(address, stimulus_id="test")
        assert isinstance(await future.exception(), KilledWorker)
        release.set()
        assert follow(log.records).attempts == {"wait": (0, 1, RUN_ID_SENTINEL)}


async def test_durations_and_bandwidth_carry_over() -> None:
    async with pair() as both:
        await both.client.gather(both.client.map(str, range(5), key="learned"))
        both.leader.bandwidth = 12_345_678
        both.leader.task_prefixes["learned"].duration_average = 7.5
        both.leader.statistics.record()
        await both.kill_leader()
        leader = await both.take_over()
        assert leader._get_prefix_duration(leader.task_prefixes["learned"]) == 7.5
        assert leader.statistics.recorded[STATISTICS]["bandwidth"] == 12_345_678


async def test_what_moved_little_is_not_recorded_again() -> None:
    log = KeptLog()
    async with leading(log, workers=1) as (scheduler, client, _):
        await client.submit(str, 1, key="one")
        prefix = scheduler.task_prefixes["one"]
        prefix.duration_average = 1.0
        scheduler.statistics.record()
        written = len(log.records)
        prefix.duration_average = 1.1
        scheduler.statistics.record()
        assert len(log.records) == written
        prefix.duration_average = 2.0
        scheduler.statistics.record()
        assert len(log.records) == written + 1


async def test_a_million_kinds_of_tasks_do_not_make_a_large_record() -> None:
    scheduler = new_scheduler()
    for number in range(PREFIXES_MAX * 2):
        name = f"prefix-{number}"
        scheduler.task_prefixes[name] = TaskPrefix(name)
        scheduler.task_prefixes[name].duration_average = 1.0
    assert len(scheduler.statistics._take()["prefixes"]) == PREFIXES_MAX


async def test_a_restart_takes_back_the_counts() -> None:
    log = KeptLog()
    async with leading(log, workers=1) as (scheduler, client, _):
        future = client.submit(str, 1, key="one")
        await future
        scheduler.tasks["one"].suspicious = 1
        scheduler.note_attempt(scheduler.tasks["one"], RUN_ID_SENTINEL)
        assert [r for r in log.records if getattr(r, "space", "") == ATTEMPTS]
        scheduler._clear_task_state()
        assert scheduler.recorder is not None
        scheduler.recorder.flush()
        assert rebuild(log.records).attempts == {}
