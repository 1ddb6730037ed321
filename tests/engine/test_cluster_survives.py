"""What users see of workers and of the cluster is there under the next leader, or known as lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from distributed import get_task_stream, performance_report, secede
from distributed.core import Status

from client_replay import OutcomeUnknown
from ha_scheduler.engine import workers as engine_workers
from ha_scheduler.ledger.records import GraphSubmitted
from ha_scheduler.worker.link import Phase
from ha_scheduler.worker.worker import Worker as HAWorker
from tests.engine.conftest import Pair, eventually, pair, run

runs: Counter[Any] = Counter()
gate = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    runs.clear()
    gate.clear()


def work(number: Any) -> Any:
    runs[number] += 1
    return number


def blocked(number: Any) -> Any:
    runs[number] += 1
    gate.wait(30)
    return number


def seceded(number: Any) -> Any:
    secede()
    return blocked(number)


async def on_each_worker(both: Pair) -> list[Any]:
    """A finished result on each worker."""
    futures = [
        both.client.submit(
            work, f"on{i}", key=f"on{i}", workers=[w.address], allow_other_workers=True
        )
        for i, w in enumerate(both.workers)
    ]
    await both.client.gather(futures)
    return futures


def holders(leader: Any, key: Any) -> set[str]:
    return {ws.address for ws in leader.tasks[key].who_has}


def never_retire(leader: Any) -> asyncio.Event:
    """A retirement that began does not end; the event says that it began."""
    began = asyncio.Event()

    async def wait(ws: Any, *args: Any, **kwargs: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    leader._track_retire_worker = wait
    return began


# Workers that leave


def test_a_retirement_that_lost_its_leader_is_finished_by_the_next() -> None:
    async def test() -> None:
        async with pair() as both:
            futures = await on_each_worker(both)
            leaving, staying = both.workers
            began = never_retire(both.leader)
            retire = asyncio.ensure_future(
                both.client.retire_workers([leaving.address], close_workers=True)
            )
            await began.wait()
            await eventually(lambda: leaving.status == Status.closing_gracefully)
            await both.kill_leader()
            leader = await both.take_over()
            assert list(await retire) == [leaving.address]
            await leaving.finished()
            assert holders(leader, "on0") == {staying.address}
            assert await both.client.gather(futures) == ["on0", "on1"]
            assert set(runs.values()) == {1}
            leader.validate_state()

    run(test)


def test_a_worker_whose_retirement_nobody_repeats_keeps_its_data_and_can_be_retired() -> None:
    async def test() -> None:
        async with pair() as both:
            futures = await on_each_worker(both)
            leaving, staying = both.workers
            began = never_retire(both.leader)
            retire = asyncio.ensure_future(both.leader.retire_workers([leaving.address]))
            await began.wait()
            await eventually(lambda: leaving.status == Status.closing_gracefully)
            await both.kill_leader()
            retire.cancel()
            leader = await both.take_over()
            assert leader.workers[leaving.address].status == Status.closing_gracefully
            assert await both.client.gather(futures) == ["on0", "on1"]
            more = both.client.map(work, range(6))
            await both.client.gather(more)
            assert {a for f in more for a in holders(leader, f.key)} == {staying.address}
            assert list(await both.client.retire_workers([leaving.address])) == [leaving.address]
            assert holders(leader, "on0") == {staying.address}
            assert set(runs.values()) == {1}

    run(test)


def test_a_retirement_repeated_in_vain_lets_the_worker_work_again() -> None:
    async def test() -> None:
        async with pair(1) as both:
            futures = await on_each_worker(both)
            (only,) = both.workers
            began = never_retire(both.leader)
            retire = asyncio.ensure_future(both.client.retire_workers([only.address]))
            await began.wait()
            await eventually(lambda: only.status == Status.closing_gracefully)
            await both.kill_leader()
            await both.take_over()
            assert await retire == {}  # nobody could take its data
            await eventually(lambda: only.status == Status.running)
            assert await both.client.submit(work, 1) == 1
            assert await futures[0] == "on0"

    run(test)


def test_a_worker_whose_life_ends_without_a_leader_leaves_its_data_to_the_others() -> None:
    async def test() -> None:
        async with pair() as both:
            futures = await on_each_worker(both)
            leaving, staying = both.workers
            await both.kill_leader()
            ending = asyncio.ensure_future(
                leaving.close_gracefully(reason="worker-lifetime-reached")
            )
            leader = await both.take_over()
            await ending
            assert leaving.status == Status.closed
            await eventually(lambda: leaving.address not in leader.workers)
            assert holders(leader, "on0") == {staying.address}
            assert await both.client.gather(futures) == ["on0", "on1"]
            assert set(runs.values()) == {1}

    run(test)


def test_a_worker_whose_life_was_ending_when_the_leader_died_leaves_under_the_next() -> None:
    async def test() -> None:
        async with pair() as both:
            futures = await on_each_worker(both)
            leaving, staying = both.workers
            began = never_retire(both.leader)
            ending = asyncio.ensure_future(
                leaving.close_gracefully(reason="worker-lifetime-reached")
            )
            await began.wait()
            await both.kill_leader()
            leader = await both.take_over()
            await ending
            assert leaving.status == Status.closed
            assert holders(leader, "on0") == {staying.address}
            assert await both.client.gather(futures) == ["on0", "on1"]
            assert set(runs.values()) == {1}

    run(test)


def pause(worker: Any) -> None:
    worker.memory_manager.memory_pause_fraction = False  # else it would find that it need not
    worker.status = Status.paused


def test_a_paused_worker_stays_paused_and_gets_no_work() -> None:
    async def test() -> None:
        async with pair() as both:
            paused, other = both.workers
            pause(paused)
            await eventually(lambda: both.leader.workers[paused.address].status == Status.paused)
            await both.kill_leader()
            leader = await both.take_over()
            assert leader.workers[paused.address].status == Status.paused
            assert leader.workers[paused.address] not in leader.running
            futures = both.client.map(work, range(6))
            await both.client.gather(futures)
            assert {a for f in futures for a in holders(leader, f.key)} == {other.address}
            paused.status = Status.running
            await eventually(lambda: leader.workers[paused.address] in leader.running)

    run(test)


def test_a_worker_that_paused_while_nobody_led_is_known_to_be_paused() -> None:
    async def test() -> None:
        async with pair() as both:
            await both.kill_leader()
            pause(both.workers[0])
            leader = await both.take_over()
            assert leader.workers[both.workers[0].address].status == Status.paused
            assert leader.workers[both.workers[1].address].status == Status.running

    run(test)


# Workers that come late, or are others than they seem


def keep_away(worker: Any) -> asyncio.Event:
    """The worker finds no leader until the event is set."""
    free = asyncio.Event()
    register = worker._ha._register

    async def late() -> Any:
        await free.wait()
        return await register()

    worker._ha._register = late
    return free


def test_a_worker_that_comes_back_after_the_window_brings_its_results_and_runs() -> None:
    async def test() -> None:
        async with pair() as both:
            late, other = both.workers
            scattered = await both.client.scatter(5, workers=[other.address])
            futures = await on_each_worker(both)
            running = both.client.submit(blocked, 1, workers=[late.address], key="running")
            await eventually(lambda: runs[1] == 1)
            free = keep_away(late)
            await both.kill_leader()
            leader = await both.take_over(window_seconds=0.2)
            assert both.marks["workers_back"] == {"reported": 1, "missing": 1}
            free.set()
            await eventually(lambda: late.address in leader.workers)
            await eventually(lambda: late._ha.phase is Phase.UP)
            gate.set()
            assert await running == 1
            assert await scattered == 5
            assert await both.client.gather(futures) == ["on0", "on1"]
            assert runs[1] == 1
            assert runs["on1"] == 1
            leader.validate_state()

    run(test)


def test_what_would_rather_run_on_a_missing_worker_runs_elsewhere() -> None:
    async def test() -> None:
        async with pair() as both:
            futures = await on_each_worker(both)
            late, other = both.workers
            free = keep_away(late)
            await both.kill_leader()
            leader = await both.take_over(window_seconds=0.2)
            await eventually(lambda: runs["on0"] == 2)  # on the other worker
            await eventually(lambda: leader.tasks["on0"].state == "memory")
            free.set()
            await eventually(lambda: late._ha.phase is Phase.UP)
            await eventually(lambda: holders(leader, "on0") >= {other.address})
            assert await both.client.gather(futures) == ["on0", "on1"]
            assert runs == {"on0": 2, "on1": 1}
            leader.validate_state()

    run(test)


def test_results_that_no_leader_and_no_client_knows_are_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_workers, "ORPHAN_GRACE_SECONDS", 0.1)

    async def test() -> None:
        async with pair(1) as both:
            (worker,) = both.workers
            future = both.client.submit(work, 1, key="unknown")
            await future
            await both.kill_leader()
            both.log.records[:] = [r for r in both.log.records if not isinstance(r, GraphSubmitted)]
            both.client.futures.clear()  # as if another process had held it
            leader = await both.take_over()
            assert "unknown" not in leader.tasks
            await eventually(lambda: "unknown" not in worker.state.tasks)
            assert await both.client.submit(work, 2) == 2

    run(test)


def test_another_worker_takes_the_name_of_one_that_died_with_the_leader() -> None:
    async def test() -> None:
        async with pair(2) as both:
            dead = both.workers.pop(0)
            restricted = both.client.submit(blocked, 1, workers=["w0"], key="restricted")
            await eventually(lambda: runs[1] == 1)
            await both.kill_leader()
            gate.set()
            await dead.close()
            reborn = asyncio.ensure_future(
                start_worker(both.address, name="w0", dashboard_address=":0")
            )
            leader = await both.take_over()
            both.workers.append(await reborn)
            assert leader.aliases["w0"] == both.workers[-1].address
            named = both.client.submit(work, 2, workers=["w0"])
            assert await named == 2
            assert holders(leader, named.key) == {both.workers[-1].address}
            restricted.release()

    run(test)


async def start_worker(*args: Any, **kwargs: Any) -> HAWorker:
    return await HAWorker(*args, nthreads=1, **kwargs)


def test_another_worker_at_the_address_of_a_dead_one_is_not_taken_for_it() -> None:
    async def test() -> None:
        async with pair(1) as both:
            (dead,) = both.workers
            future = both.client.submit(work, 1, key="lost")
            await future
            port = dead.port
            await both.kill_leader()
            both.workers.clear()
            await dead.close()
            reborn = asyncio.ensure_future(
                start_worker(both.address, port=port, name="w0", dashboard_address=":0")
            )
            await both.take_over()
            both.workers.append(await reborn)
            assert both.workers[0].address == dead.address
            assert await future == 1
            assert runs[1] == 2

    run(test)


def test_a_failover_in_the_middle_of_a_recovery_loses_nothing() -> None:
    async def test() -> None:
        async with pair() as both:
            futures = await on_each_worker(both)
            running = both.client.submit(blocked, 1, key="running")
            await eventually(lambda: runs[1] == 1)
            free = keep_away(both.workers[0])
            await both.kill_leader()
            second = both._scheduler(1)
            replay(second, both)
            await second.activate(2, both.log, both._mark)
            await eventually(lambda: both.workers[1].address in second.workers)
            assert not second.recovery.is_open
            both.leader, first = second, both.leader
            await both.kill_leader()
            second.recovery.opened = asyncio.Event().wait  # it died: it does not go on
            free.set()
            both.ports.reverse()
            third = both._scheduler(1)
            replay(third, both)
            await third.activate(3, both.log, both._mark)
            await third.recovery.opened()
            both.leader, both.former = third, second
            gate.set()
            assert await running == 1
            assert await both.client.gather(futures) == ["on0", "on1"]
            assert len(third.workers) == 2
            assert set(runs.values()) == {1}
            third.validate_state()
            await super(type(first), first).close()

    run(test)


def replay(follower: Any, both: Pair) -> None:
    follower.replay.caught_up()
    for record in both.log.records:
        follower.replay.apply(record)


# The cluster, as others see it


def test_adaptive_scaling_asks_for_as_many_workers_as_before() -> None:
    async def test() -> None:
        async with pair(2) as both:
            both.leader.task_prefixes.clear()
            await both.client.submit(work, 0, key="blocked-0")
            both.leader.task_prefixes["blocked"].duration_average = 2.0
            futures = both.client.map(blocked, range(1, 20), key="blocked")
            await eventually(lambda: runs[1] + runs[2] >= 1 and len(both.leader.tasks) >= 19)
            both.leader.experience.record()
            before = await both.client.scheduler.adaptive_target(target_duration="5s")
            assert before > 2
            await both.kill_leader()
            asked = asyncio.ensure_future(
                both.client.scheduler.adaptive_target(target_duration="5s")
            )
            await both.take_over()
            assert await asked == before
            gate.set()
            assert await both.client.gather(futures) == list(range(1, 20))

    run(test)


def test_a_worker_with_a_seceded_task_is_not_one_to_close() -> None:
    async def test() -> None:
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

    run(test)


def test_a_wait_for_workers_goes_on_through_a_failover() -> None:
    async def test() -> None:
        async with pair(1) as both:
            waiting = asyncio.ensure_future(both.client.wait_for_workers(2, timeout=30))
            await asyncio.sleep(0)
            await both.kill_leader()
            await both.take_over()
            assert not waiting.done()
            both.workers.append(
                await start_worker(both.address, name="second", dashboard_address=":0")
            )
            await waiting

    run(test)


def test_the_scheduler_info_of_the_next_leader_names_the_same_workers() -> None:
    async def test() -> None:
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

    run(test)


def test_the_time_that_a_follower_followed_does_not_count_as_idle() -> None:
    async def test() -> None:
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

    run(test)


def test_a_leader_that_still_recovers_is_not_idle() -> None:
    async def test() -> None:
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

    run(test)


# Calls whose outcome cannot be known


def count() -> None:
    runs["count"] += 1


async def count_and_wait() -> None:
    count()
    await asyncio.Event().wait()


@pytest.mark.parametrize("call", ["run", "run_on_scheduler"])
def test_a_function_that_was_running_everywhere_is_not_run_a_second_time(call: str) -> None:
    async def test() -> None:
        async with pair(1) as both:
            method = getattr(both.client, call)
            running = asyncio.ensure_future(method(count_and_wait))
            await eventually(lambda: runs["count"] == 1)
            await both.kill_leader()
            with pytest.raises(OutcomeUnknown, match="may have been done"):
                await running
            waiting = asyncio.ensure_future(method(count))  # was never sent: may be
            await both.take_over()
            await waiting
            assert runs["count"] == 2

    run(test)


def test_a_restart_whose_leader_died_is_not_silently_made_again() -> None:
    async def test() -> None:
        async with pair(1) as both:
            began = asyncio.Event()

            async def never(**kwargs: Any) -> None:
                began.set()
                await asyncio.Event().wait()

            both.leader.handlers["restart"] = never
            restart = asyncio.ensure_future(both.client.restart())
            await began.wait()
            await both.kill_leader()
            with pytest.raises(OutcomeUnknown, match="may have been done"):
                await restart
            await both.take_over()
            assert await both.client.submit(work, 2) == 2

    run(test)


# Diagnostics: what the former leader saw is lost


def test_a_task_stream_shows_what_ran_under_the_present_leader() -> None:
    async def test() -> None:
        async with pair(1) as both:
            async with get_task_stream(client=both.client) as stream:
                await both.client.submit(work, 1, key="before")
                await both.kill_leader()
                await both.take_over()
                await both.client.get_task_stream(start=0, stop=0)  # the next leader begins one
                await both.client.submit(work, 2, key="after")
            assert [seen["key"] for seen in stream.data] == ["after"]

    run(test)


def test_a_performance_report_over_a_failover_is_written(tmp_path: Path) -> None:
    pytest.importorskip("bokeh")
    report = tmp_path / "report.html"

    async def test() -> None:
        async with pair(1) as both:
            with both.client.as_current():
                async with performance_report(filename=str(report)):
                    await both.client.submit(work, 1, key="before")
                    await both.kill_leader()
                    await both.take_over()
                    await both.client.submit(work, 2, key="after")

    run(test)
    assert "Dask Performance Report" in report.read_text()
