"""What is measured, drawn or looked up around a failover."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from distributed import get_task_stream
from distributed.diagnostics import MemorySampler
from distributed.diagnostics.progressbar import MultiProgressBar, ProgressBar
from distributed.diagnostics.task_stream import TaskStreamPlugin

from tests.engine.conftest import eventually, pair
from tests.engine.counted import begin, blocked, gate, runs, work


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


async def test_a_sampler_of_memory_goes_on_under_the_next_leader() -> None:
    async with pair(1) as both:
        sampler = MemorySampler()
        async with sampler.sample("peak", client=both.client, interval=0.01):
            await both.kill_leader()
            first = await both.take_over()
            ((_, samples),) = first.extensions["memory_sampler"].samples.items()
            await eventually(lambda: len(samples) > 1)
        assert len(sampler.samples["peak"]) > 1
        assert not first.extensions["memory_sampler"].recorded


async def test_a_sampler_of_a_client_that_is_gone_is_not_begun_again() -> None:
    async with pair(1) as both:
        start = both.client.scheduler.memory_sampler_start
        await start(client="Client-gone", measure="process", interval=60)
        await both.kill_leader()
        leader = await both.take_over()
        extension = leader.extensions["memory_sampler"]
        assert not extension.samples
        assert not extension.recorded


@pytest.mark.parametrize("kind", [ProgressBar, MultiProgressBar])
async def test_a_progress_bar_goes_on_under_the_next_leader(kind: Any) -> None:
    seen: list[Any] = []

    class Bar(kind):  # type: ignore[misc]
        def _draw_bar(self, remaining: Any, **kwargs: Any) -> None:
            seen.append(remaining)

    async with pair(1) as both:
        future = both.client.submit(blocked, 1)
        bar = Bar([future], scheduler=both.address, interval="10ms")
        listening = asyncio.ensure_future(bar.listen())
        await eventually(lambda: bool(seen))
        await both.kill_leader()
        seen.clear()
        await both.take_over()
        await eventually(lambda: bool(seen))
        assert not listening.done()
        gate.set()
        await listening
        assert bar.status == "finished"
        assert runs[1] == 1


def fail(number: int) -> int:
    raise ZeroDivisionError(number + runs[number])


async def test_an_error_of_before_is_recreated_locally() -> None:
    async with pair(1) as both:
        needed = both.client.submit(work, 5)
        future = both.client.submit(fail, needed, key="failed")
        await future.exception()
        await both.kill_leader()
        recreated = both.client.extensions["replay-tasks"]
        with both.client.as_current():
            asked = asyncio.ensure_future(recreated._get_errored_future(future))
            await both.take_over()
            assert await asked == "failed"
            spec, inputs = await recreated._get_components_from_future(future)
        with pytest.raises(ZeroDivisionError):
            spec(inputs)
        assert runs[5] == 1


async def test_a_story_is_that_of_the_present_leader_and_of_all_workers() -> None:
    async with pair(1) as both:
        (worker,) = both.workers
        future = both.client.submit(work, 1, key="x")
        await future
        await both.kill_leader()
        asked = asyncio.ensure_future(both.client.story("x"))
        leader = await both.take_over()
        told = await asked
        assert {entry[0] for entry in told} == {"scheduler", worker.address}
        assert len([e for e in told if e[0] == "scheduler"]) == len(leader.story("x"))


async def test_a_task_stream_has_all_that_ran_under_the_next_leader() -> None:
    async with pair(1) as both:
        await both.client.get_task_stream()  # from now on there is one
        early = both.client.map(work, range(10), key="early")
        await both.client.gather(early)
        running = both.client.submit(blocked, 11, key="running")
        await eventually(lambda: runs[11] == 1)
        async with get_task_stream(client=both.client) as stream:
            await both.kill_leader()
            await both.take_over()
            late = both.client.map(work, range(20, 25), key="late")
            gate.set()
            await both.client.gather([running, *late])
        ran = sorted(seen["key"] for seen in stream.data)
        assert ran == sorted(future.key for future in [running, *late])


@pytest.mark.filterwarnings("error")
async def test_a_leader_that_shows_when_tasks_ran_adopts_those_of_which_it_does_not_know(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair(1) as both:
        await both.client.get_task_stream()
        futures = both.client.map(work, range(3), key="early")
        await both.client.gather(futures)
        await both.kill_leader()
        leader = await both.take_over()
        assert TaskStreamPlugin.name in leader.plugins
        failed = [r for r in caplog.records if getattr(r, "action", "") == "plugin_failed"]
        assert not failed
        assert await both.client.get_task_stream() == ()
