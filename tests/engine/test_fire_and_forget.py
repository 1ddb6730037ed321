"""What was fired and forgotten runs once, whenever its leader dies."""

from __future__ import annotations

import pytest
from distributed import fire_and_forget

from ha_scheduler.engine.stream import recorder
from ha_scheduler.engine.stream.pending_releases import FIRE_AND_FORGET
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.records import GraphsRetired, Record, Released
from ha_scheduler.ledger.tables import GRAPHS
from tests.engine.conftest import end, eventually, follow, pair, rebuild
from tests.engine.counted import begin, blocked, gate, runs, work
from tests.twins.tables import MemoryTables


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


async def test_one_that_is_over_is_not_known_to_an_engine_that_starts_on_the_ledger() -> None:
    async with pair(1) as both:
        fire_and_forget(both.client.submit(work, 1))
        await eventually(lambda: runs[1] == 1 and not both.leader.tasks)
        fire_and_forget(both.client.submit(blocked, 2, key="running"))
        await eventually(lambda: runs[2] == 1)
        both.leader.recorder.flush()
        engine = rebuild(both.log.records)
        assert engine.tasks.keys() == {"running"}
        await end(engine)
        gate.set()


async def test_one_whose_end_did_not_commit_is_not_run_again() -> None:
    async with pair(1) as both:
        (worker,) = both.workers
        fire_and_forget(both.client.submit(blocked, 1, key="once"))
        await eventually(lambda: runs[1] == 1 and not len(both.client._ha.journal))
        both.leader.recorder.flush()
        both.log.stall()
        gate.set()
        await eventually(lambda: not both.leader.tasks or "once" in worker.data)
        for _ in range(20):  # what the leader tells the worker at once is there by then
            await eventually(lambda: True)
        both.leader.recorder.flush()
        await both.kill_leader(lose_records=both.log.stalled)
        both.log.resume()
        leader = await both.take_over()
        assert await both.client.submit(work, 2) == 2
        await eventually(lambda: "once" not in leader.tasks)
        assert runs == {1: 1, 2: 1}


def graphs_of_the_ledger(records: list[Record]) -> int:
    tables = MemoryTables()
    for index, record in enumerate(records, 1):
        assert fold(tables, index, 1, encode(record)) is None
    return len(list(tables.scan(GRAPHS)))


@pytest.mark.parametrize("rebuilt", [False, True])
async def test_a_graph_is_retired_though_its_leader_died_when_it_had_let_go_of_the_last_key(
    rebuilt: bool,
) -> None:
    async with pair(1) as both:
        kept = both.client.submit(work, 1)
        assert await kept == 1
        fire_and_forget(both.client.submit(blocked, 2, key="fired"))
        await eventually(lambda: runs[2] == 1 and not len(both.client._ha.journal))
        both.log.stall()  # the leader does not hear that its release has committed
        gate.set()
        await eventually(
            lambda: (
                isinstance(last := both.log.records[-1], Released)
                and last.client == FIRE_AND_FORGET
            )
        )
        await both.kill_leader()
        both.log.resume()
        assert not any(isinstance(record, GraphsRetired) for record in both.log.records)
        assert graphs_of_the_ledger(both.log.records) == 2
        leader = await both.take_over(rebuilt=rebuilt)
        leader.recorder.flush()
        assert "fired" not in leader.tasks
        assert graphs_of_the_ledger(both.log.records) == 1
        assert await kept == 1
        assert runs == {1: 1, 2: 1}


async def test_many_that_end_together_are_let_go_by_few_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "BATCH_SECONDS", 0.5)  # a busy machine is slow
    async with pair() as both:
        leader = both.leader
        futures = both.client.map(blocked, range(100), key="many")
        fire_and_forget(futures)
        await eventually(lambda: len(leader.tasks) == 100)
        before = len(both.log.records)
        del futures
        gate.set()
        await eventually(lambda: not leader.tasks)
        assert leader.recorder is not None
        leader.recorder.flush()
        written = both.log.records[before:]
        assert len(written) < 50, [type(record).__name__ for record in written]
        assert not leader.pending_releases
        follower = follow(both.log.records)
        assert not follower.tasks
        await end(follower)


@pytest.mark.parametrize("rebuilt", [False, True])
async def test_one_that_is_asked_for_again_before_its_end_has_committed_runs_for_each_once(
    rebuilt: bool,
) -> None:
    """To the followers, which know of its end before, it is another task of that name."""
    async with pair(1) as both:
        commit = both.log.hold()
        future = both.client.submit(work, 1, key="fired")
        fire_and_forget(future)
        assert await future == 1
        future.release()
        assert await both.client.submit(work, 2) == 2  # the leader heard of the release
        both.leader.recorder.flush()
        again = both.client.submit(work, 1, key="fired")
        assert await again == 1
        commit()
        await eventually(lambda: not len(both.client._ha.journal))
        assert runs[1] == 2
        await both.kill_leader()
        await both.take_over(rebuilt=rebuilt)
        assert await both.client.gather(again) == 1
        assert runs[1] == 2


async def test_one_whose_last_future_was_released_is_kept_until_that_has_committed() -> None:
    async with pair(1) as both:
        commit = both.log.hold()
        future = both.client.submit(work, 1)
        fire_and_forget(future)
        assert await future == 1
        both.leader.recorder.flush()  # that it was fired and is over
        both.log.stall()
        future.release()
        assert await both.client.submit(work, 2) == 2  # the leader heard of the release
        commit()
        assert await both.client.submit(work, 3) == 3
        both.leader.recorder.flush()
        await both.kill_leader(lose_records=both.log.stalled)
        both.log.resume()
        await both.take_over()
        assert await both.client.submit(work, 4) == 4
        assert runs[1] == 1


def fail(number: int) -> None:
    runs[number] += 1
    raise ValueError(number)


@pytest.mark.parametrize("rebuilt", [False, True])
async def test_the_error_of_one_that_is_over_is_not_that_of_the_task_submitted_anew(
    rebuilt: bool,
) -> None:
    async with pair(1) as both:
        fire_and_forget(both.client.submit(fail, 1, key="fired"))
        await eventually(lambda: runs[1] == 1 and not both.leader.tasks)
        first = both.client.submit(blocked, 2)
        again = both.client.submit(work, first, key="fired")
        await eventually(lambda: runs[2] == 1 and not len(both.client._ha.journal))
        await both.kill_leader()
        leader = await both.take_over(rebuilt=rebuilt)
        state = leader.tasks["fired"].state
        gate.set()
        assert state == "waiting"
        assert await again == 2
