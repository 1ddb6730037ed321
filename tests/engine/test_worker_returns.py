"""Workers that come back late, or are others than they seem."""

from __future__ import annotations

import asyncio

import pytest

from ha_scheduler.engine.takeover import orphans
from ha_scheduler.engine.workers import expected, probe
from ha_scheduler.engine.workers.probe import Reach
from ha_scheduler.ledger.records import GraphSubmitted
from ha_scheduler.worker.link import Phase
from tests.engine.conftest import eventually, keep_away, pair, replay, say_nothing, start_worker
from tests.engine.counted import begin, blocked, gate, holders, on_each_worker, runs, work


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


async def test_a_worker_that_comes_back_after_the_window_brings_its_results_and_runs() -> None:
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


async def test_what_would_rather_run_on_a_worker_of_which_nothing_comes_runs_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither it nor its host answers: that may be for ever, and its results can be made again."""

    async def nothing(address: str, seconds: float) -> Reach:
        return Reach.NOTHING

    monkeypatch.setattr(probe, "reach", nothing)
    monkeypatch.setattr(expected, "CALL_SECONDS", 0.3)
    async with pair() as both:
        futures = await on_each_worker(both)
        late, other = both.workers
        free = say_nothing(late)
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


async def test_results_that_no_leader_and_no_client_knows_are_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(orphans, "GRACE_SECONDS", 0.1)
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


async def test_another_worker_takes_the_name_of_one_that_died_with_the_leader() -> None:
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


async def test_another_worker_at_the_address_of_a_dead_one_is_not_taken_for_it() -> None:
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


async def test_a_failover_in_the_middle_of_a_recovery_loses_nothing() -> None:
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


async def test_a_removed_worker_is_not_taken_for_a_holder_of_what_it_spoke_of_last() -> None:
    async with pair() as both:
        gone, other = both.workers
        lost = both.client.submit(work, 1, workers=[other.address], key="lost")
        assert await lost == 1
        await both.kill_leader()
        both.log.records = [r for r in both.log.records if not isinstance(r, GraphSubmitted)]
        both.client._ha.journal.forget()  # it does not come again either
        leader = await both.take_over()
        await eventually(lambda: leader.adoption.orphans.owners() == {other.address})
        await leader.remove_worker(gone.address, stimulus_id="gone")
        leader.add_keys(worker=gone.address, keys=["lost", "copy"])  # read before it was removed
        assert leader.adoption.orphans.owners() == {other.address}
        assert other.address not in leader.workers_to_close(minimum=0)
