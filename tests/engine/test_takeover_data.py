"""A new leader adopts what is more than a result: scattered data, actors, shuffles, wishes."""

from __future__ import annotations

import operator

import pytest
from distributed import fire_and_forget

from tests.engine.conftest import end, eventually, pair, rebuild
from tests.engine.counted import begin, blocked, gate, runs, work


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


async def test_an_intermediate_result_that_nobody_needs_any_more_is_freed() -> None:
    async with pair() as both:
        futures = both.client.map(work, range(10))
        total = both.client.submit(sum, futures)
        await total
        futures.clear()
        await eventually(lambda: sum(len(worker.data) for worker in both.workers) == 1)
        await both.kill_leader()
        leader = await both.take_over()
        assert await total == 45
        assert await both.client.submit(operator.add, total, 1) == 46
        assert set(runs.values()) == {1}
        leader.validate_state()


@pytest.mark.parametrize("place", [0, 1])
async def test_what_stood_between_two_results_is_not_computed_again(place: int) -> None:
    """Its input is in memory, so it could be; what needed it is, so it need not."""
    async with pair() as both:
        here, there = both.workers[place].address, both.workers[1 - place].address
        first = both.client.submit(work, 0, workers=[here])
        between = both.client.submit(work, first)
        last = both.client.submit(work, between, workers=[there])
        assert await last == 0
        between.release()
        await eventually(lambda: both.leader.tasks[between.key].state == "released")
        await both.kill_leader()
        leader = await both.take_over()
        assert leader.tasks[between.key].state == "released"
        assert await both.client.gather([first, last]) == [0, 0]
        assert runs == {0: 3}  # each once


class Counter_:
    """An actor."""

    def __init__(self) -> None:
        runs["actor"] += 1
        self.value = 0

    def increment(self) -> int:
        self.value += 1
        return self.value


async def test_an_actor_keeps_its_state() -> None:
    async with pair() as both:
        with both.client.as_current():
            actor = await both.client.submit(Counter_, actor=True)
            assert await actor.increment() == 1
            await both.kill_leader()
            leader = await both.take_over()
            assert await actor.increment() == 2
        assert runs["actor"] == 1
        leader.validate_state()


async def test_scattered_data_stays_and_is_given_up_with_its_only_holder() -> None:
    async with pair() as both:
        first, second = both.workers
        kept = await both.client.scatter([1, 2], workers=[first.address])
        lost = await both.client.scatter([3], workers=[second.address])
        total = both.client.submit(sum, kept)
        assert await total == 3
        await both.kill_leader()
        both.workers.remove(second)
        await second.close()
        leader = await both.take_over()
        assert await both.client.gather(kept) == [1, 2]
        await eventually(lambda: lost[0].status == "cancelled")
        leader.validate_state()


async def test_a_completed_fire_and_forget_task_is_never_run_again() -> None:
    async with pair() as both:
        fire_and_forget(both.client.submit(work, 1))
        await eventually(lambda: runs[1] == 1 and not both.leader.tasks)
        fire_and_forget(both.client.submit(blocked, 2))
        await eventually(lambda: runs[2] == 1)
        await both.kill_leader()
        leader = await both.take_over()
        gate.set()
        await eventually(lambda: not leader.tasks)
        assert runs == {1: 1, 2: 1}


async def test_a_released_future_is_not_computed_by_the_next_leader() -> None:
    async with pair(1) as both:
        first = both.client.submit(blocked, 1)
        await eventually(lambda: runs[1] == 1)
        unwanted = both.client.submit(work, 2)
        await eventually(lambda: unwanted.key in both.leader.tasks)
        unwanted.release()
        await eventually(lambda: unwanted.key not in both.leader.tasks)
        # A worker that was not told yet would report it, and be let go on for a while.
        await eventually(lambda: unwanted.key not in both.workers[0].state.tasks)
        await both.kill_leader()
        leader = await both.take_over()
        gate.set()
        assert await first == 1
        assert runs == {1: 1}
        leader.validate_state()


async def test_a_result_outlives_the_scattered_data_that_it_was_made_of() -> None:
    async with pair() as both:
        data = await both.client.scatter(5)
        result = both.client.submit(work, data)
        await result
        data.release()
        await eventually(lambda: len(both.leader.tasks) == 1)
        await both.kill_leader()
        leader = await both.take_over()
        assert await result == 5
        assert runs == {5: 1}
        leader.validate_state()
        await end(rebuild(both.log.records))


async def test_a_graph_on_lost_data_is_cancelled_and_does_not_hang() -> None:
    async with pair() as both:
        second = both.workers[1]
        lost = await both.client.scatter(3, workers=[second.address])
        both.workers.remove(second)
        await second.close()
        await eventually(lambda: second.address not in both.leader.workers)
        future = both.client.submit(work, lost)
        await eventually(lambda: future.status == "cancelled")
