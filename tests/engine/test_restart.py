"""``restart`` is a barrier: killed at any moment it was done or was not, and never half."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from distributed.core import Status

from client_replay import Client as HAClient
from ha_scheduler.ledger.records import Called
from tests.engine.conftest import Pair, end, eventually, follow, pair, rebuild, start_worker
from tests.engine.counted import begin, blocked, gate, on_each_worker, runs, work


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


async def of_all_kinds(both: Pair) -> list[Any]:
    """Futures of a result on each worker, of scattered data, of an error, of what runs."""
    futures = await on_each_worker(both)
    futures += await both.client.scatter([5, 6])
    failed = both.client.submit(divmod, 1, 0)
    await failed.exception()
    running = both.client.map(blocked, range(3), key="blocked")
    await eventually(lambda: len(runs) >= 2 + 2)
    await both.client.set_metadata(["some"], 1)
    return [*futures, failed, *running]


def restart(both: Pair) -> asyncio.Future[Any]:
    return asyncio.ensure_future(both.client.restart(wait_for_workers=False, timeout=5))


async def open_session(both: Pair) -> None:
    """Else the records that a test waits for would be those of the client's session."""
    await both.client.set_metadata(["some"], 0)


async def restarted(both: Pair) -> None:
    """A restart has been answered."""
    asking = restart(both)
    await eventually(lambda: not both.leader.tasks)
    gate.set()  # workers without a nanny close, and wait for their threads
    await asking


async def test_a_follower_of_a_restart_knows_nothing_of_before() -> None:
    async with pair() as both:
        await of_all_kinds(both)
        await restarted(both)
        for engine in (follow(both.log.records), rebuild(both.log.records)):
            assert not engine.tasks
            assert not engine.task_metadata
            assert not len(engine.graphs)
            assert not engine.scattered
            await end(engine)


async def test_after_a_restart_nothing_of_before_is_there_under_the_next_leader() -> None:
    async with pair() as both:
        futures = await of_all_kinds(both)
        await restarted(both)
        await both.kill_leader()
        leader = await both.take_over()
        both.workers[:] = [await start_worker(both.address, dashboard_address=":0")]
        assert all(future.status == "cancelled" for future in futures)
        assert not leader.tasks
        assert not leader.retirements
        assert await both.client.submit(work, "next") == "next"
        leader.validate_state()


async def test_a_restart_that_did_not_commit_has_not_happened() -> None:
    async with pair() as both:
        futures = await of_all_kinds(both)
        both.leader.recorder.flush()
        committed = len(both.log.records)
        both.log.stall()
        asking = restart(both)
        await eventually(lambda: len(both.log.records) > committed)
        for _ in range(20):
            await asyncio.sleep(0.01)  # it has every chance to do what it must not
        assert [w.status for w in both.workers] == [Status.running] * 2
        assert not any(future.status == "cancelled" for future in futures)
        await both.kill_leader(lose_records=len(both.log.records) - committed)
        both.log.resume()
        asking.cancel()  # or else the next leader makes it
        gate.set()
        leader = await both.take_over()
        assert len(leader.workers) == 2
        assert await both.client.gather(futures[:2]) == ["on0", "on1"]
        assert await both.client.gather(futures[-3:]) == [0, 1, 2]
        assert isinstance(await futures[4].exception(), ZeroDivisionError)
        leader.validate_state()


@pytest.mark.parametrize("kept", ["the first record", "all records"])
async def test_a_restart_that_committed_is_carried_through_by_the_next_leader(kept: str) -> None:
    async with pair() as both:
        futures = await of_all_kinds(both)
        old = list(both.workers)
        both.leader.recorder.flush()
        before = len(both.log.records)
        both.log.stall()
        asking = restart(both)
        await eventually(lambda: both.log.stalled >= 4)
        assert isinstance(both.log.records[before], Called)
        written = len(both.log.records) - before
        lose = written - 1 if kept == "the first record" else 0
        await both.kill_leader(lose_records=lose)
        both.log.resume()
        gate.set()
        leader = await both.take_over()
        await asking
        failed = futures.pop(4)
        await eventually(lambda: all(future.status == "cancelled" for future in futures))
        assert failed.status in ("error", "cancelled")  # a client keeps an error that it has
        await asyncio.gather(*(worker.finished() for worker in old))
        assert not leader.retirements
        both.workers.append(await start_worker(both.address, dashboard_address=":0"))
        assert await both.client.submit(work, "next") == "next"
        leader.validate_state()


def another_client(both: Pair) -> HAClient:
    return HAClient(both.address, asynchronous=True, set_as_default=False)


async def test_another_client_hears_of_a_restart_that_its_leader_did_not_live_to_tell() -> None:
    async with pair() as both, another_client(both) as other:
        future = other.submit(work, 1, key="of another")
        await future
        await open_session(both)
        both.leader.recorder.flush()
        both.log.stall()
        asking = restart(both)
        await eventually(lambda: both.log.stalled >= 4)
        await both.kill_leader()
        both.log.resume()
        assert future.status == "finished"
        await both.take_over()
        await asking
        await eventually(lambda: future.status == "cancelled")


async def test_a_worker_that_was_to_restart_does_so_under_the_next_leader() -> None:
    async with pair() as both:
        futures = await on_each_worker(both)
        old, staying = both.workers
        await open_session(both)
        both.leader.recorder.flush()
        both.log.stall()
        asking = asyncio.ensure_future(
            both.client.scheduler.restart_workers(
                workers=[old.address], wait_for_workers=False, stimulus_id="test"
            )
        )
        await eventually(lambda: both.log.stalled >= 1)
        assert old.status == Status.running
        await both.kill_leader()
        both.log.resume()
        leader = await both.take_over()
        assert await asking == {old.address: "removed"}
        await old.finished()  # it has no nanny: upstream closes it
        assert set(leader.workers) == {staying.address}
        assert await both.client.gather(futures) == ["on0", "on1"]
        assert runs == {"on0": 2, "on1": 1}


class Frozen:
    """The lease of a leader that was frozen: it is over."""

    def __init__(self) -> None:
        self.over = True

    def valid(self) -> bool:
        return not self.over


async def test_a_leader_that_wakes_up_restarts_no_worker_of_its_successor() -> None:
    async with pair() as both:
        futures = await on_each_worker(both)
        both.leader.lease = lease = Frozen()
        tasks = [
            asyncio.ensure_future(both.leader.restart(stimulus_id="late")),
            asyncio.ensure_future(both.leader.restart_workers(stimulus_id="late")),
        ]
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert [w.status for w in both.workers] == [Status.running] * 2
        for task in tasks:
            task.cancel()
        await both.kill_leader()
        lease.over = False
        await both.take_over()
        assert await both.client.gather(futures) == ["on0", "on1"]
        assert set(runs.values()) == {1}


async def test_no_departure_is_left_of_a_worker_that_goes_while_a_restart_waits() -> None:
    async with pair() as both:
        leader, (gone, _) = both.leader, both.workers
        leader.lease = lease = Frozen()
        lease.over = False
        clear = leader._clear_task_state

        def slowly() -> None:
            clear()
            lease.over = True  # it took longer than the lease had to go

        leader._clear_task_state = slowly
        asking = asyncio.ensure_future(
            leader.restart(wait_for_workers=False, timeout=5, stimulus_id="test")
        )
        await eventually(lambda: lease.over)
        await leader.remove_worker(gone.address, stimulus_id="gone")
        lease.over = False
        await asking
        await eventually(lambda: not leader.retirements)
        follower = follow(both.log.records)
        assert not follower.retirements
        await end(follower)


async def test_a_restart_makes_void_what_was_let_go_a_moment_before() -> None:
    async with pair() as both:
        futures = await on_each_worker(both)
        await open_session(both)
        both.leader.recorder.flush()
        commit = both.log.hold()
        futures[0].release()
        await eventually(lambda: len(both.leader.pending_releases) == 1)
        asking = restart(both)
        await eventually(lambda: not both.leader.tasks or asking.done())
        assert [w.status for w in both.workers] == [Status.running] * 2
        commit()
        await asking
        assert not both.leader.retirements
        assert not rebuild(both.log.records).tasks
        both.leader.validate_state()
