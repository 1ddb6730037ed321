"""A recovery that fails ends its engine, and in the tests of the engine its test."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import warnings
from typing import Any

import pytest
from distributed.diagnostics.plugin import SchedulerPlugin

from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.engine.takeover.recovery import Recovery
from ha_scheduler.protocol.codec import tag_of
from ha_scheduler.protocol.worker import LeaderCalled
from tests.engine.conftest import eventually, keep_away, pair

FAILING = """
import asyncio
from ha_scheduler.engine.takeover.recovery import Recovery

async def recover():
    Recovery(lambda: 1 / 0).begin(())
    print("it goes on")

asyncio.run(recover())
"""


def test_an_engine_whose_recovery_fails_ends() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FAILING], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "The recovery failed; this engine exits." in ended.stderr
    assert "ZeroDivisionError" in ended.stderr
    assert not ended.stdout


@pytest.mark.parametrize("workers", [0, 1], ids=["at once", "when all have reported"])
def test_a_recovery_that_fails_is_a_test_that_fails(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(scheduler: Any) -> None:
        raise ZeroDivisionError("of this test")

    async def test() -> None:
        async with pair(workers) as both:
            monkeypatch.setattr(Scheduler, "open_recovery", fail)
            await both.kill_leader()
            await both.take_over()

    with pytest.raises(RuntimeError, match="Event loop stopped"):
        asyncio.run(test())
    with warnings.catch_warnings():  # connections that were being made when the loop stopped
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class WaitsForWorkers(SchedulerPlugin):
    """Starts when the workers have joined, and so after the port is bound."""

    async def start(self, scheduler: Any) -> None:
        if scheduler.term > 1:
            await eventually(lambda: len(scheduler.workers) == 2)


async def test_workers_that_report_while_plugins_start_are_not_waited_for() -> None:
    async with pair(workers=2) as both:
        await both.client.register_plugin(WaitsForWorkers())
        await both.kill_leader()
        await both.take_over(window_seconds=0.1)
        assert both.marks["workers_back"] == {"reported": 2, "missing": 0}


class Clock:
    """The clock of a loop, which a test moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        time, self._ahead = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: time() + self._ahead)

    async def jump(self, seconds: float) -> None:
        """As if one step of the loop had taken so long."""
        self._ahead += seconds
        for _ in range(3):  # timers that are due, and what they call
            await asyncio.sleep(0)

    async def move(self, seconds: float) -> None:
        for _ in range(100):
            await self.jump(seconds / 100)


async def test_the_window_begins_anew_with_each_worker_that_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, workers = Clock(monkeypatch), [f"tcp://w:{n}" for n in range(8)]
    recovery = Recovery(lambda: None)
    recovery.begin(workers, window_seconds=2)
    for worker in workers[:-1]:
        await clock.move(1)
        assert not recovery.is_open
        recovery.settled(worker)
    await clock.move(1)
    assert not recovery.is_open
    recovery.settled(workers[0])  # it has come before
    await clock.move(1.5)
    assert recovery.is_open
    assert recovery.awaited == {workers[-1]}


async def test_time_in_which_nobody_could_come_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, recovery = Clock(monkeypatch), Recovery(lambda: None)
    recovery.begin(["tcp://w:1", "tcp://w:2"], window_seconds=10)
    stalled = asyncio.ensure_future(recovery.stalled(5))
    await clock.jump(20)
    assert not recovery.is_open
    assert not stalled.done()
    await clock.move(7)
    assert stalled.done()
    assert not recovery.is_open
    await clock.move(10)
    assert recovery.is_open


def count_calls(worker: Any, calls: list[str]) -> None:
    called = worker.handlers[tag_of(LeaderCalled)]

    def counting(comm: Any, **fields: Any) -> Any:
        calls.append(worker.address)
        return called(comm, **fields)

    worker.handlers[tag_of(LeaderCalled)] = counting


async def test_a_leader_calls_the_workers_alone_that_do_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stalled = asyncio.Event()

    async def until_told(recovery: Recovery, seconds: float) -> None:
        await stalled.wait()

    async with pair(workers=3) as both:
        monkeypatch.setattr(Recovery, "stalled", until_told)
        calls: list[str] = []
        for worker in both.workers:
            count_calls(worker, calls)
        away = both.workers[-1]
        free = keep_away(away)
        await both.kill_leader()
        taking_over = asyncio.ensure_future(both.take_over(window_seconds=60))
        await eventually(lambda: both.leader.term == 2)
        await eventually(lambda: both.leader.recovery.awaited == {away.address})
        stalled.set()
        await eventually(lambda: bool(calls))
        free.set()
        await taking_over
        assert calls == [away.address]
