"""A finished task is not run again because its result was let go just before the leader died."""

from __future__ import annotations

from typing import Any

import pytest
from distributed.client import FutureCancelledError

from tests.engine.conftest import Pair, eventually, pair
from tests.engine.counted import begin, runs, work
from tests.engine.interruptions import another_client


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


async def let_go(both: Pair, future: Any) -> None:
    key = future.key
    future.release()
    await eventually(lambda: key not in both.client.futures)


async def until_the_leader_heard(both: Pair) -> None:
    """What was sent on the client's stream before this is handled."""
    assert await both.client.submit(work, "heard") == "heard"
    for _ in range(20):  # what the leader tells a worker at once is there by then
        await eventually(lambda: True)


@pytest.mark.parametrize("graph_committed", [True, False])
@pytest.mark.parametrize("rebuilt", [False, True])
async def test_a_result_whose_release_did_not_commit_is_not_computed_again(
    graph_committed: bool, rebuilt: bool
) -> None:
    async with pair(1) as both:
        if not graph_committed:
            both.log.stall()
        future = both.client.submit(work, 1)
        assert await future == 1
        if graph_committed:
            await eventually(lambda: not len(both.client._ha.journal))
            both.log.stall()
        await let_go(both, future)
        await until_the_leader_heard(both)
        both.leader.recorder.flush()
        await both.kill_leader(lose_records=both.log.stalled)
        both.log.resume()
        leader = await both.take_over(rebuilt=rebuilt)
        assert await both.client.submit(work, 2) == 2
        await eventually(lambda: future.key not in leader.tasks)
        assert runs[1] == 1


async def test_a_result_whose_client_left_and_that_did_not_commit_is_not_computed_again() -> None:
    async with pair(1) as both, another_client(both) as other:
        future = other.submit(work, 1)
        assert await future == 1
        await eventually(lambda: not len(other._ha.journal))
        both.log.stall()
        await other.close()
        await until_the_leader_heard(both)
        assert other.id not in both.leader.clients
        await both.kill_leader(lose_records=both.log.stalled)
        both.log.resume()
        await both.take_over()
        assert await both.client.submit(work, 2) == 2
        assert runs[1] == 1


async def test_what_was_let_go_is_freed_when_that_has_committed() -> None:
    async with pair(1) as both:
        (worker,) = both.workers
        future = both.client.submit(work, 1)
        assert await future == 1
        commit = both.log.hold()
        await let_go(both, future)
        await until_the_leader_heard(both)
        assert future.key in worker.data
        commit()
        await eventually(lambda: future.key not in worker.data)
        await eventually(lambda: not both.leader.tasks)
        both.leader.validate_state()


async def test_a_task_submitted_again_after_it_was_let_go_is_a_new_one() -> None:
    async with pair(1) as both:
        commit = both.log.hold()
        future = both.client.submit(work, 1, key="again")
        assert await future == 1
        await let_go(both, future)
        again = both.client.submit(work, 2, key="again")
        assert await again == 2
        commit()
        await until_the_leader_heard(both)
        assert await both.client.gather(again) == 2
        both.leader.validate_state()


async def test_what_was_let_go_is_as_good_as_unknown_to_a_graph() -> None:
    """It is to the followers, which are told of the release before the graph."""
    async with pair(1) as both, another_client(both) as other:
        commit = both.log.hold()
        future = both.client.submit(work, 1, key="input")
        assert await future == 1
        await let_go(both, future)
        await until_the_leader_heard(both)
        assert "input" in both.leader.tasks
        late = other.submit(work, type(future)("input", other), key="late")
        with pytest.raises(FutureCancelledError):
            await late
        commit()


async def test_what_was_let_go_is_not_computed_for_nobody_when_its_worker_dies() -> None:
    async with pair(2) as both:
        commit = both.log.hold()
        future = both.client.submit(work, 1, key="gone")
        assert await future == 1
        (holder,) = both.leader.tasks["gone"].who_has
        await let_go(both, future)
        await until_the_leader_heard(both)
        assert "gone" in both.leader.tasks
        await both.leader.remove_worker(holder.address, stimulus_id="test")
        assert "gone" not in both.leader.tasks
        commit()
        assert runs[1] == 1


class NotLookedAt(set[Any]):
    def __iter__(self) -> Any:
        raise AssertionError("what is below a kept result may be a graph of any size")


async def test_what_is_below_a_kept_result_costs_other_graphs_nothing() -> None:
    async with pair(1) as both:
        commit = both.log.hold()
        below = both.client.submit(work, 1, key="below")
        future = both.client.submit(work, below, key="kept")
        assert await future == 1
        await let_go(both, future)
        await until_the_leader_heard(both)
        kept = both.leader.tasks["kept"]
        dependencies, kept.dependencies = kept.dependencies, NotLookedAt(kept.dependencies)
        assert await both.client.submit(work, 2) == 2
        assert len(both.leader.pending_releases)
        kept.dependencies = dependencies
        commit()
        await eventually(lambda: "kept" not in both.leader.tasks)
