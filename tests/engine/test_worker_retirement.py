"""Workers that were about to leave, or to rest, when their leader died."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from distributed.core import Status

from ha_scheduler.engine.workers import retirement
from ha_scheduler.engine.workers.expected import WORKERS
from ha_scheduler.ledger.records import Record, ValueDeleted
from tests.engine.conftest import (
    Pair,
    end,
    eventually,
    follow,
    keep_away,
    pair,
    rebuild,
    start_worker,
)
from tests.engine.counted import begin, holders, on_each_worker, runs, work


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


def never_retire(leader: Any) -> asyncio.Event:
    """A retirement that began does not end, for no data moves; the event says that it began."""
    began = asyncio.Event()
    leader.extensions["amm"].run_once = began.set
    return began


async def test_a_retirement_that_lost_its_leader_is_finished_by_the_next() -> None:
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


async def test_a_retirement_that_nobody_repeats_is_finished_by_the_next_leader() -> None:
    async with pair() as both:
        futures = await on_each_worker(both)
        leaving, staying = both.workers
        began = never_retire(both.leader)
        retire = asyncio.ensure_future(
            both.leader.retire_workers([leaving.address], close_workers=True)
        )
        await began.wait()
        await both.kill_leader()
        retire.cancel()
        leader = await both.take_over()
        await leaving.finished()
        assert set(leader.workers) == {staying.address}
        assert holders(leader, "on0") == {staying.address}
        assert await both.client.gather(futures) == ["on0", "on1"]
        assert set(runs.values()) == {1}
        assert not leader.retirements
        leader.validate_state()


async def test_a_retirement_goes_on_when_its_worker_comes_after_the_window() -> None:
    async with pair() as both:
        futures = await on_each_worker(both)
        leaving, staying = both.workers
        began = never_retire(both.leader)
        retire = asyncio.ensure_future(both.leader.retire_workers([leaving.address]))
        await began.wait()
        free = keep_away(leaving)
        await both.kill_leader()
        retire.cancel()
        leader = await both.take_over(window_seconds=0.2)
        assert leader.retirements
        free.set()
        await eventually(lambda: not leader.retirements)
        assert leaving.address not in leader.workers
        assert await both.client.gather(futures) == ["on0", "on1"]
        assert holders(leader, "on1") == {staying.address}


async def test_nobody_is_expected_to_retire_who_died_with_the_leader() -> None:
    async with pair() as both:
        await on_each_worker(both)
        leaving = both.workers[0]
        began = never_retire(both.leader)
        retire = asyncio.ensure_future(both.leader.retire_workers([leaving.address]))
        await began.wait()
        await both.kill_leader()
        retire.cancel()
        await leaving.close()
        leader = await both.take_over()
        assert not leader.retirements
        assert not rebuild(both.log.records).retirements


async def test_the_memory_manager_runs_under_the_next_leader_if_it_ran_under_this_one() -> None:
    async with pair(1) as both:
        amm = both.client.amm
        assert await amm.running()
        await amm.stop()
        await both.kill_leader()
        await both.take_over()
        assert not await amm.running()
        await amm.start()
        assert await amm.running()
        follower = follow(both.log.records)
        assert follower.switches == {"amm": True}
        await end(follower)


async def test_a_retirement_repeated_in_vain_lets_the_worker_work_again() -> None:
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


def lose(leader: Any, worker: Any, lost: dict[str, str]) -> None:
    """What is like ``lost`` is sent to the worker, and does not arrive."""
    stream = leader.stream_comms[worker.address]
    send = stream.send

    def send_others(*messages: dict[str, Any]) -> None:
        send(*(m for m in messages if not lost.items() <= m.items()))

    stream.send = send_others


def dismissing(both: Pair, how: str, address: str) -> Any:
    if how == "restart":
        return both.client.restart(wait_for_workers=False, timeout=5)
    if how == "restart_workers":
        return both.client.scheduler.restart_workers(
            workers=[address], timeout=5, wait_for_workers=False, stimulus_id="test"
        )
    return both.client.retire_workers([address], close_workers=True, remove=how == "retire")


@pytest.mark.parametrize("rebuilt", [True, False])
@pytest.mark.parametrize("how", ["restart", "restart_workers", "retire", "retire and stay"])
async def test_a_worker_that_did_not_hear_that_it_has_to_close_hears_it_from_the_next_leader(
    how: str, rebuilt: bool
) -> None:
    async with pair() as both:
        await on_each_worker(both)
        gone, staying = both.workers
        lose(both.leader, gone, {"op": "close"})
        await dismissing(both, how, gone.address)
        assert not both.leader.retirements
        assert gone.status in (Status.running, Status.closing_gracefully)
        told, close = [], gone.stream_handlers["close"]

        async def hear(**what: Any) -> None:
            told.append(what)
            await close(**what)

        gone.stream_handlers["close"] = hear
        await both.kill_leader()
        leader = await both.take_over(rebuilt=rebuilt)
        await gone.finished()
        (what,) = told  # the nanny of one that was restarted is to start it anew
        assert what["nanny"] == how.startswith("retire")
        remaining = set() if how == "restart" else {staying.address}
        await eventually(lambda: set(leader.workers) == remaining)
        assert gone.address not in rebuild(both.log.records).recorded_workers
        if how == "restart":
            both.workers.append(await start_worker(both.address, dashboard_address=":0"))
        assert await both.client.submit(work, "next") == "next"
        leader.validate_state()


@pytest.mark.parametrize("how", ["restart_workers", "retire"])
async def test_a_worker_whose_heartbeat_crosses_the_word_to_close_closes(how: str) -> None:
    async with pair() as both:
        await on_each_worker(both)
        gone, staying = both.workers
        lose(both.leader, gone, {"op": "close"})
        await dismissing(both, how, gone.address)
        await gone.heartbeat()  # it is answered that there is no such worker
        await gone.finished()
        assert set(both.leader.workers) == {staying.address}


def says_who_left(record: Record) -> bool:
    return isinstance(record, ValueDeleted) and record.space == WORKERS


async def test_a_worker_whose_end_was_recorded_and_not_that_it_left_is_not_waited_for() -> None:
    async with pair() as both:
        await on_each_worker(both)
        gone, staying = both.workers
        lose(both.leader, gone, {"op": "close"})
        await dismissing(both, "restart_workers", gone.address)
        both.leader.recorder.flush()
        both.log.records[:] = [r for r in both.log.records if not says_who_left(r)]
        await both.kill_leader()
        leader = await both.take_over(window_seconds=600)
        assert set(leader.workers) == {staying.address}
        await gone.finished()
        assert gone.address not in rebuild(both.log.records).recorded_workers


async def test_a_worker_that_could_not_retire_unheard_works_under_the_next_leader() -> None:
    async with pair(1) as both:
        futures = await on_each_worker(both)
        (only,) = both.workers
        lose(both.leader, only, {"op": "worker-status-change", "status": "running"})
        assert await both.client.retire_workers([only.address]) == {}
        await eventually(lambda: only.status == Status.closing_gracefully)
        await both.kill_leader()
        await both.take_over()
        await eventually(lambda: only.status == Status.running)
        assert await both.client.submit(work, 1) == 1
        assert await both.client.gather(futures) == ["on0"]


async def test_a_worker_that_has_retired_and_closes_by_itself_gets_no_work_meanwhile() -> None:
    async with pair() as both:
        await on_each_worker(both)
        retired, other = both.workers
        await both.client.retire_workers([retired.address], close_workers=False)
        await eventually(lambda: retired.status == Status.closing_gracefully)
        await both.kill_leader()
        leader = await both.take_over()
        await eventually(lambda: retired.address in leader.workers)
        futures = both.client.map(work, range(6))
        await both.client.gather(futures)
        assert retired.status == Status.closing_gracefully
        assert {a for f in futures for a in holders(leader, f.key)} == {other.address}


async def test_a_worker_that_was_lost_while_it_retired_works_again_with_its_data() -> None:
    async with pair(1) as both:
        futures = await on_each_worker(both)
        (only,) = both.workers
        began = never_retire(both.leader)
        retire = asyncio.ensure_future(both.leader.retire_workers([only.address]))
        await began.wait()
        await eventually(lambda: only.status == Status.closing_gracefully)
        free = keep_away(only)
        only._ha.abandon("a test")
        await eventually(lambda: not both.leader.workers)
        await retire
        free.set()
        await eventually(lambda: only.status == Status.running)
        assert await both.client.gather(futures) == ["on0"]


@pytest.mark.parametrize("rebuilt", [True, False])
async def test_who_was_dismissed_first_is_forgotten_first(
    rebuilt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retirement, "DISMISSED_MAX", 2)
    async with pair(4) as both:
        ids = [worker.id for worker in both.workers]
        for worker in both.workers[:3]:
            await both.client.retire_workers([worker.address])
        assert list(both.leader.dismissed) == ids[1:3]
        await both.kill_leader()
        leader = await both.take_over(rebuilt=rebuilt)
        assert list(leader.dismissed) == ids[1:3]
        await dismissing(both, "restart_workers", both.workers[3].address)
        assert list(leader.dismissed) == ids[2:4]
        engine = rebuild(both.log.records)
        assert set(engine.dismissed) == set(ids[2:4])
        await end(engine)


async def test_a_worker_whose_life_ends_without_a_leader_leaves_its_data_to_the_others() -> None:
    async with pair() as both:
        futures = await on_each_worker(both)
        leaving, staying = both.workers
        await both.kill_leader()
        ending = asyncio.ensure_future(leaving.close_gracefully(reason="worker-lifetime-reached"))
        leader = await both.take_over()
        await ending
        assert leaving.status == Status.closed
        await eventually(lambda: leaving.address not in leader.workers)
        assert holders(leader, "on0") == {staying.address}
        assert await both.client.gather(futures) == ["on0", "on1"]
        assert set(runs.values()) == {1}


async def test_a_worker_whose_life_was_ending_when_the_leader_died_leaves_under_the_next() -> None:
    async with pair() as both:
        futures = await on_each_worker(both)
        leaving, staying = both.workers
        began = never_retire(both.leader)
        ending = asyncio.ensure_future(leaving.close_gracefully(reason="worker-lifetime-reached"))
        await began.wait()
        await both.kill_leader()
        leader = await both.take_over()
        await ending
        assert leaving.status == Status.closed
        assert holders(leader, "on0") == {staying.address}
        assert await both.client.gather(futures) == ["on0", "on1"]
        assert set(runs.values()) == {1}


def pause(worker: Any) -> None:
    worker.memory_manager.memory_pause_fraction = False  # else it would find that it need not
    worker.status = Status.paused


async def test_a_paused_worker_stays_paused_and_gets_no_work() -> None:
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


async def test_a_worker_that_paused_while_nobody_led_is_known_to_be_paused() -> None:
    async with pair() as both:
        await both.kill_leader()
        pause(both.workers[0])
        leader = await both.take_over()
        assert leader.workers[both.workers[0].address].status == Status.paused
        assert leader.workers[both.workers[1].address].status == Status.running
