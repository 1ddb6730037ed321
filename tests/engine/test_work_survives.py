"""What was said about work stays said under the next leader: restrictions, order, cancellation."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import dask
import pytest
from distributed import KilledWorker, secede, span
from distributed.scheduler import NoValidWorkerError

from ha_scheduler.worker.worker import Worker as HAWorker
from tests.engine.conftest import Pair, eventually, pair
from tests.engine.counted import begin, blocked, gate, runs, work

open_once = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()
    open_once.clear()


def seceded(number: Any) -> Any:
    secede()
    return blocked(number)


async def occupy(both: Pair) -> list[Any]:
    """A blocked task on each worker."""
    futures = [
        both.client.submit(blocked, f"b{i}", key=f"b{i}", workers=[worker.address])
        for i, worker in enumerate(both.workers)
    ]
    await eventually(lambda: all(runs[f"b{i}"] for i in range(len(both.workers))))
    return futures


# Restrictions, resources, annotations, priorities


async def test_a_graph_keeps_its_worker_and_host_restrictions() -> None:
    async with pair() as both:
        held = await occupy(both)
        by_name = both.client.map(work, range(4), workers=["w1"], key="name")
        by_host = both.client.submit(work, 9, workers=["127.0.0.1"], key="host")
        loose = both.client.submit(work, 8, workers=["w1"], allow_other_workers=True, key="loose")
        keys = [f.key for f in [*by_name, by_host, loose]]
        await eventually(lambda: all(key in both.leader.tasks for key in keys))
        before = {key: restrictions(both.leader.tasks[key]) for key in keys}
        await both.kill_leader()
        leader = await both.take_over()
        assert {key: restrictions(leader.tasks[key]) for key in keys} == before
        gate.set()
        await both.client.gather([*held, *by_name, by_host, loose])
        address = both.workers[1].address
        for future in by_name:
            assert {ws.address for ws in leader.tasks[future.key].who_has} == {address}


def restrictions(ts: Any) -> tuple[Any, ...]:
    return (
        ts.worker_restrictions,
        ts.host_restrictions,
        ts.resource_restrictions,
        ts.loose_restrictions,
    )


async def test_a_running_task_goes_on_holding_its_resources() -> None:
    async with pair(0) as both:
        worker = await HAWorker(
            both.address, nthreads=2, resources={"GPU": 1}, dashboard_address=":0"
        )
        both.workers.append(worker)
        first = both.client.submit(blocked, 1, resources={"GPU": 1})
        await eventually(lambda: runs[1] == 1)
        second = both.client.submit(work, 2, resources={"GPU": 1})
        await eventually(lambda: second.key in both.leader.tasks)
        await both.kill_leader()
        leader = await both.take_over()
        (ws,) = leader.workers.values()
        assert ws.resources == {"GPU": 1}
        assert ws.used_resources["GPU"] >= 1
        assert leader.tasks[second.key].resource_restrictions == {"GPU": 1}
        free = both.client.submit(work, 3)
        assert await free == 3
        assert not runs[2]
        gate.set()
        assert await both.client.gather([first, second]) == [1, 2]
        assert ws.used_resources["GPU"] == 0


async def test_tasks_run_by_their_priorities_and_generations_under_the_next_leader() -> None:
    async with pair(1) as both:
        (held,) = await occupy(both)
        # Not many of a kind yet: these go to the worker at once, and later ones queue.
        first = both.client.map(work, ["first", "second"])
        low = both.client.submit(work, "low", priority=-1)
        early = both.client.submit(work, "early", fifo_timeout="0s")
        high = both.client.submit(work, "high", priority=1)
        named = [f.key for f in (low, early, high)]
        await eventually(lambda: all(key in both.leader.tasks for key in named))
        before = {ts.key: ts.priority for ts in both.leader.tasks.values()}
        await both.kill_leader()
        leader = await both.take_over()
        assert {ts.key: ts.priority for ts in leader.tasks.values()} == before
        late = both.client.submit(work, "late", fifo_timeout="0s")
        await eventually(lambda: late.key in leader.tasks)
        gate.set()
        await both.client.gather([held, *first, low, early, high, late])
        # A counter has its keys in the order in which they came.
        assert list(runs)[3:] == ["high", "early", "late", "low"]


async def test_annotations_and_spans_are_those_of_before() -> None:
    async with pair(1) as both:
        with both.client.as_current(), dask.annotate(flavour="sweet"), span("outer", "inner"):
            marked = both.client.submit(blocked, 1)
        plain = both.client.submit(work, 2)
        await eventually(lambda: runs[1] == 1 and plain.key in both.leader.tasks)
        before = {f.key: span_of(both.leader, f.key) for f in (marked, plain)}
        await both.kill_leader()
        leader = await both.take_over()
        assert leader.tasks[marked.key].annotations["flavour"] == "sweet"
        assert {f.key: span_of(leader, f.key) for f in (marked, plain)} == before
        assert before[marked.key][0] == ("outer", "inner")
        gate.set()
        assert await both.client.gather([marked, plain]) == [1, 2]
        await both.workers[0].heartbeat()
        measured = leader.extensions["spans"].spans[before[marked.key][1]]
        assert measured.cumulative_worker_metrics


def span_of(leader: Any, key: Any) -> tuple[Any, str]:
    span_id = leader.tasks[key].group.span_id
    return leader.extensions["spans"].spans[span_id].name, span_id


# Long-running tasks


async def test_a_seceded_task_stays_seceded_and_its_thread_is_not_counted() -> None:
    async with pair(1) as both:
        future = both.client.submit(seceded, 1)
        await eventually(lambda: runs[1] == 1)
        await eventually(lambda: bool(one_worker(both.leader).long_running))
        await both.kill_leader()
        leader = await both.take_over()
        ws = one_worker(leader)
        assert {ts.key for ts in ws.long_running} == {future.key}
        assert await both.client.submit(work, 2) == 2  # on the worker's only thread
        gate.set()
        assert await future == 1
        assert runs == {1: 1, 2: 1}


async def test_a_task_that_secedes_while_nobody_leads_is_known_to_have() -> None:
    async with pair(1) as both:
        future = both.client.submit(secede_when_told, 1)
        await eventually(lambda: runs["told"] == 1)
        await both.kill_leader()
        open_once.set()
        await eventually(lambda: runs[1] == 1)
        state = both.workers[0].state
        await eventually(lambda: state.tasks[future.key].state == "long-running")
        leader = await both.take_over()
        assert {ts.key for ts in one_worker(leader).long_running} == {future.key}
        assert await both.client.submit(work, 2) == 2
        gate.set()
        assert await future == 1


def secede_when_told(number: Any) -> Any:
    runs["told"] += 1
    open_once.wait(30)
    return seceded(number)


def one_worker(leader: Any) -> Any:
    (ws,) = leader.workers.values()
    return ws


# Errors


async def test_a_task_that_killed_its_workers_is_not_tried_again_by_the_next_leader() -> None:
    async with pair(2) as both:
        both.leader.allowed_failures = 0
        future = both.client.submit(blocked, 1, key="killer")
        await eventually(lambda: runs[1] == 1)
        address = both.leader.tasks["killer"].processing_on.address
        await both.leader.remove_worker(address, stimulus_id="test")
        error = await future.exception()
        assert isinstance(error, KilledWorker)
        await both.kill_leader()
        leader = await both.take_over()
        assert leader.tasks["killer"].state == "erred"
        gate.set()
        again = await both.client.submit(work, future).exception()
        assert isinstance(again, KilledWorker)
        assert (again.task, again.last_worker.address) == ("killer", address)
        assert runs == {1: 1}


async def test_a_task_that_found_no_worker_in_time_stays_failed() -> None:
    with dask.config.set({"distributed.scheduler.no-workers-timeout": "50ms"}):
        both = Pair()
        await both.start(1)
    try:
        future = both.client.submit(work, 1, workers=["nowhere"], key="homeless")
        await eventually(lambda: future.status == "error")
        assert isinstance(await future.exception(), NoValidWorkerError)
        await both.kill_leader()
        leader = await both.take_over()
        assert leader.tasks["homeless"].state == "erred"
        assert isinstance(await future.exception(), NoValidWorkerError)
    finally:
        await both.close()


# Work stealing in flight


async def test_a_task_on_its_way_from_one_worker_to_another_runs_once() -> None:
    async with pair(2) as both:
        held = await occupy(both)
        victim, thief = both.workers
        loot = both.client.submit(
            work, "loot", key="loot", workers=[victim.address], allow_other_workers=True
        )
        await eventually(lambda: "loot" in victim.state.tasks)
        stealing = both.leader.extensions["stealing"]
        given_up: list[Any] = []
        both.leader.stream_handlers["steal-response"] = lambda **kw: given_up.append(kw)
        ts = both.leader.tasks["loot"]
        stealing.move_task_request(
            ts, both.leader.workers[victim.address], both.leader.workers[thief.address]
        )
        await eventually(lambda: bool(given_up))
        assert "loot" not in victim.state.tasks
        await both.kill_leader()
        leader = await both.take_over()
        assert leader.tasks["loot"].state in ("processing", "queued", "no-worker")
        gate.set()
        assert await loot == "loot"
        await both.client.gather(held)
        assert runs["loot"] == 1


async def test_a_task_that_was_asked_for_and_not_given_stays_where_it_is() -> None:
    async with pair(2) as both:
        held = await occupy(both)
        victim, thief = both.workers
        loot = both.client.submit(
            work, "loot", key="loot", workers=[victim.address], allow_other_workers=True
        )
        await eventually(lambda: "loot" in victim.state.tasks)
        leader = both.leader
        stealing = leader.extensions["stealing"]
        heard: list[Any] = []
        victim.stream_handlers["steal-request"] = lambda **kw: heard.append(kw)
        stealing.move_task_request(
            leader.tasks["loot"], leader.workers[victim.address], leader.workers[thief.address]
        )
        await eventually(lambda: bool(heard))
        await both.kill_leader()
        leader = await both.take_over()
        assert leader.tasks["loot"].processing_on.address == victim.address
        assert not leader.extensions["stealing"].in_flight
        gate.set()
        assert await loot == "loot"
        await both.client.gather(held)
        assert runs["loot"] == 1


# Data


async def test_what_was_replicated_stays_replicated() -> None:
    async with pair(3) as both:
        await both.client.amm.stop()
        future = both.client.submit(work, 1)
        await future
        await both.client.replicate([future], n=3)
        assert len(both.leader.tasks[future.key].who_has) == 3
        await both.kill_leader()
        leader = await both.take_over()
        assert len(leader.tasks[future.key].who_has) == 3
        assert all(future.key in worker.data for worker in both.workers)
        assert runs[1] == 1


async def test_a_replication_in_flight_is_made_again_by_the_next_leader() -> None:
    async with pair(3) as both:
        await both.client.amm.stop()
        future = both.client.submit(work, 1)
        await future
        asked = asyncio.Event()

        async def never(*args: Any) -> None:
            asked.set()
            await asyncio.Event().wait()

        both.leader.gather_on_worker = never
        replicate = asyncio.ensure_future(both.client.replicate([future], n=3))
        await asked.wait()
        await both.kill_leader()
        leader = await both.take_over()
        leader.extensions["amm"].stop()
        await replicate
        assert len(leader.tasks[future.key].who_has) == 3


async def test_a_rebalancing_in_flight_is_made_again_by_the_next_leader() -> None:
    async with pair(2) as both:
        futures = await both.client.scatter(list(range(10)), workers=[both.workers[0].address])
        asked = asyncio.Event()

        async def never(*args: Any, **kwargs: Any) -> None:
            asked.set()
            await asyncio.Event().wait()

        both.leader.rebalance = both.leader.handlers["rebalance"] = never
        rebalance = asyncio.ensure_future(both.client.rebalance(futures))
        await asked.wait()
        await both.kill_leader()
        await both.take_over()
        await rebalance
        assert await both.client.gather(futures) == list(range(10))


async def test_a_result_that_was_spilled_to_disk_is_reported_without_being_read() -> None:
    async with pair(1) as both:
        future = both.client.submit(bytes, 1000)
        await future
        data = both.workers[0].data
        data.evict()
        assert future.key in data.slow
        await both.kill_leader()
        leader = await both.take_over()
        assert leader.tasks[future.key].state == "memory"
        assert leader.tasks[future.key].nbytes >= 1000
        assert future.key in data.slow
        assert future.key not in data.fast
        assert await future == bytes(1000)
