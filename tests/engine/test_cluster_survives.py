"""What users see of the cluster is there under the next leader, or known as lost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from distributed import get_client, get_task_stream, performance_report, secede
from distributed.core import Status

from client_replay import OutcomeUnknown
from ha_scheduler.engine.scheduler import Scheduler
from tests.engine.conftest import eventually, keep_away, pair, replay, start_worker
from tests.engine.counted import begin, blocked, gate, runs, work
from tests.engine.test_handlers_repeated import stop_at


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


def seceded(number: Any) -> Any:
    secede()
    return blocked(number)


async def test_adaptive_scaling_asks_for_as_many_workers_as_before() -> None:
    async with pair(2) as both:
        both.leader.task_prefixes.clear()
        await both.client.submit(work, 0, key="blocked-0")
        both.leader.task_prefixes["blocked"].duration_average = 2.0
        futures = both.client.map(blocked, range(1, 20), key="blocked")
        await eventually(lambda: runs[1] + runs[2] >= 1 and len(both.leader.tasks) >= 19)
        both.leader.statistics.record()
        before = await both.client.scheduler.adaptive_target(target_duration="5s")
        assert before > 2
        await both.kill_leader()
        asked = asyncio.ensure_future(both.client.scheduler.adaptive_target(target_duration="5s"))
        await both.take_over()
        assert await asked == before
        gate.set()
        assert await both.client.gather(futures) == list(range(1, 20))


async def test_a_worker_with_a_seceded_task_is_not_one_to_close() -> None:
    async with pair(3) as both:
        busy, holder, idle = both.workers
        running = both.client.submit(seceded, 1, workers=[busy.address])
        kept = both.client.submit(bytes, 10_000, workers=[holder.address])
        await kept
        await eventually(lambda: any(ws.long_running for ws in both.leader.workers.values()))
        await both.kill_leader()
        asked = asyncio.ensure_future(
            both.client.scheduler.workers_to_close(n=2, attribute="address")
        )
        await both.take_over()
        assert list(await asked) == [idle.address, holder.address]  # the emptiest first
        gate.set()
        await running


async def test_a_wait_for_workers_goes_on_through_a_failover() -> None:
    async with pair(1) as both:
        waiting = asyncio.ensure_future(both.client.wait_for_workers(2, timeout=30))
        await asyncio.sleep(0)
        await both.kill_leader()
        await both.take_over()
        assert not waiting.done()
        both.workers.append(await start_worker(both.address, name="second", dashboard_address=":0"))
        await waiting


async def test_the_scheduler_info_of_the_next_leader_names_the_same_workers() -> None:
    async with pair(2) as both:
        before = (await both.client.scheduler.identity())["workers"]
        await both.kill_leader()
        asked = asyncio.ensure_future(both.client.scheduler.identity())
        leader = await both.take_over()
        info = await asked
        assert info["address"] == leader.address
        assert {a: w["name"] for a, w in info["workers"].items()} == {
            a: w["name"] for a, w in before.items()
        }


async def test_who_asks_for_workers_waits_until_they_have_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call_workers = Scheduler.call_workers
    asked: list[asyncio.Future[Any]] = []
    told: list[Any] = []

    async def ask_first(self: Scheduler, *args: Any) -> None:
        asked.append(asyncio.ensure_future(self.handlers["identity"]()))
        await asyncio.sleep(0)
        told.append((await self.handlers["identity"](n_workers=0))["ha"]["term"])
        told.append(asked[0].done())
        await call_workers(self, *args)

    async with pair(1) as both:
        await both.kill_leader()
        monkeypatch.setattr(Scheduler, "call_workers", ask_first)
        await both.take_over()
        assert told == [2, False], "who leads is said at once"
        assert len((await asked[0])["workers"]) == 1


async def test_the_time_that_a_follower_followed_does_not_count_as_idle() -> None:
    async with pair(1) as both:
        await both.client.submit(work, 1)
        await both.kill_leader()
        scheduler = both._scheduler

        def long_idle(number: int) -> Any:
            follower = scheduler(number)
            follower.idle_timeout = 60
            follower.idle_since = time.time() - 3600
            return follower

        both._scheduler = long_idle
        leader = await both.take_over()
        for _ in range(3):
            leader.check_idle()
        await both.client.submit(work, 2)
        assert len(leader.workers) == 1
        assert both.workers[0].status == Status.running


async def test_a_leader_that_still_recovers_is_not_idle() -> None:
    async with pair(2) as both:
        free = keep_away(both.workers[0])
        await both.kill_leader()
        follower = both._scheduler(1)
        follower.idle_timeout = 0.001
        replay(follower, both)
        await follower.activate(2, both.log, both._mark)
        both.former, both.leader = both.leader, follower
        await eventually(lambda: len(follower.workers) == 1)
        for _ in range(3):
            follower.check_idle()
            await asyncio.sleep(0.01)
        follower.idle_timeout = None
        assert both.workers[1].status == Status.running
        free.set()
        await follower.recovery.opened()
        assert len(follower.workers) == 2


async def test_a_leader_is_not_idle_while_a_client_is_about_to_bring_its_work() -> None:
    """Its graph did not commit: until it is back, its worker seems to have nothing to do."""
    async with pair(1) as both:
        both.leader.recorder.flush()
        both.log.stall()
        future = both.client.submit(blocked, 1)
        await eventually(lambda: runs[1] == 1)
        await both.kill_leader(lose_records=both.log.stalled)
        both.log.resume()
        back = asyncio.Event()
        ensure = both.client._ensure_connected

        async def late(timeout: float | None = None) -> None:
            await back.wait()
            await ensure(timeout=timeout)

        both.client._ensure_connected = late
        leader = await both.take_over()
        leader.idle_timeout = 0.001
        for _ in range(5):
            assert leader.check_idle() is None
            await asyncio.sleep(0.01)
        leader.idle_timeout = None
        back.set()
        gate.set()
        assert await future == 1
        assert runs[1] == 1
        await eventually(lambda: leader.check_idle() is not None)


# Calls whose outcome cannot be known


def count() -> None:
    runs["count"] += 1


async def count_and_wait() -> None:
    count()
    await asyncio.Event().wait()


@pytest.mark.parametrize("call", ["run", "run_on_scheduler"])
async def test_a_function_that_was_running_everywhere_is_not_run_a_second_time(call: str) -> None:
    async with pair(1) as both:
        method = getattr(both.client, call)
        running = asyncio.ensure_future(method(count_and_wait))
        await eventually(lambda: runs["count"] == 1)
        await both.kill_leader()
        with pytest.raises(OutcomeUnknown, match=rf"during Client\.{call}: it may have been done"):
            await running
        waiting = asyncio.ensure_future(method(count))  # was never sent: may be
        await both.take_over()
        await waiting
        assert runs["count"] == 2


# Diagnostics: what the former leader saw is lost


async def test_a_task_stream_shows_what_ran_under_the_present_leader() -> None:
    async with pair(1) as both:
        async with get_task_stream(client=both.client) as stream:
            await both.client.submit(work, 1, key="before")
            await both.kill_leader()
            await both.take_over()
            await both.client.get_task_stream(start=0, stop=0)  # the next leader begins one
            await both.client.submit(work, 2, key="after")
        assert [seen["key"] for seen in stream.data] == ["after"]


async def test_a_performance_report_over_a_failover_is_written(tmp_path: Path) -> None:
    pytest.importorskip("bokeh")
    report = tmp_path / "report.html"
    async with pair(1) as both:
        with both.client.as_current():
            async with performance_report(filename=str(report)):
                await both.client.submit(work, 1, key="before")
                await both.kill_leader()
                await both.take_over()
                await both.client.submit(work, 2, key="after")
    assert "Dask Performance Report" in report.read_text()


@pytest.mark.parametrize("moment", ["arrived", "done"])
@pytest.mark.parametrize("op", ["run_function", "get_task_stream"])
async def test_a_performance_report_that_is_begun_as_the_leader_dies_is_written(
    op: str, moment: str, tmp_path: Path
) -> None:
    pytest.importorskip("bokeh")
    report = tmp_path / "report.html"

    async def write() -> None:
        async with performance_report(filename=str(report)):
            await get_client().submit(work, 1, key="after")

    async with pair(1) as both:
        reached = stop_at(both.leader, op, moment)
        with both.client.as_current():
            writing = asyncio.ensure_future(write())
        await reached.wait()
        await both.kill_leader()
        await both.take_over()
        await writing
        assert runs[1] == 1
    assert "Dask Performance Report" in report.read_text()
