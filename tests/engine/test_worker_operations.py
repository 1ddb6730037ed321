"""Restarts and retirements are carried out once, and answered by whoever leads by then.

The moments at which the leader dies: the call has *arrived*; it was *recorded*, and no worker has
heard of it; its effect is *done*, and its answer was not recorded; it was *answered*, and the
answer did not arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from ha_scheduler.deploy.ports import free_ports
from tests.engine.conftest import Pair, end, eventually, pair, rebuild, start_worker
from tests.engine.counted import begin, on_each_worker, runs, work
from tests.engine.interruptions import another_client, open_sessions
from tests.engine.test_handlers_repeated import stop_at

every_moment = pytest.mark.parametrize("moment", ["arrived", "recorded", "done", "answered"])


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


async def lose_leader(
    both: Pair,
    op: str,
    moment: str,
    call: Any,
    has_effect: Callable[[], bool],
    rebuilt: bool = False,
) -> Any:
    """The leader dies at this moment of ``call``; what the next one answers."""
    await open_sessions(both)
    barriers, reached = both.leader.worker_operations, asyncio.Event()
    if moment == "recorded":

        async def recorded(barrier: Any) -> None:
            await both.leader.transactions.settled()
            reached.set()
            await asyncio.Event().wait()

        barriers.begun = recorded  # type: ignore[method-assign]
    elif moment == "done":
        barriers._answer = lambda *args: reached.set()  # type: ignore[method-assign, assignment]
    else:
        reached = stop_at(both.leader, op, "done" if moment == "answered" else moment)
    asking = asyncio.ensure_future(call)
    await reached.wait()
    if moment in ("done", "answered"):
        await eventually(has_effect)
    await both.kill_leader()
    await both.take_over(rebuilt=rebuilt)
    return await asking


def closed(*workers: Any) -> Callable[[], bool]:
    return lambda: all(worker.status == Status.closed for worker in workers)


async def assert_nothing_is_left(both: Pair) -> None:
    assert not both.leader.retirements
    assert not both.leader.worker_operations._known
    assert not both.leader.worker_operations._outcomes
    engine = rebuild(both.log.records)
    assert not engine.retirements
    assert not engine.worker_operations._known
    assert not engine.worker_operations._outcomes
    await end(engine)


@every_moment
async def test_a_restart_is_answered_and_made_once_whenever_its_leader_dies(moment: str) -> None:
    async with pair() as both:
        futures = await on_each_worker(both)
        old = list(both.workers)
        asking = both.client.restart(wait_for_workers=False, timeout=5)
        assert await lose_leader(both, "restart", moment, asking, closed(*old)) is None
        assert all(future.status == "cancelled" for future in futures)
        await asyncio.gather(*(worker.finished() for worker in old))
        both.workers.append(await start_worker(both.address, dashboard_address=":0"))
        assert await both.client.submit(work, "next") == "next"
        assert both.workers[-1].status == Status.running
        await assert_nothing_is_left(both)
        both.leader.validate_state()


@every_moment
@pytest.mark.parametrize("rebuilt", [True, False])
async def test_workers_are_restarted_once_and_it_is_told_whenever_the_leader_dies(
    moment: str, rebuilt: bool
) -> None:
    async with pair() as both:
        await on_each_worker(both)
        old, staying = both.workers
        asking = both.client.scheduler.restart_workers(
            workers=[old.address], timeout=5, wait_for_workers=False, stimulus_id="test"
        )
        answer = await lose_leader(both, "restart_workers", moment, asking, closed(old), rebuilt)
        assert answer == {old.address: "removed"}  # as of one without a nanny
        await old.finished()
        assert staying.status == Status.running
        assert runs["on1"] == 1
        await assert_nothing_is_left(both)


async def test_the_next_leader_answers_when_as_many_workers_are_back_as_there_were() -> None:
    async with pair() as both:
        old, _ = both.workers
        await open_sessions(both)
        asking = asyncio.ensure_future(
            both.client.scheduler.restart_workers(
                workers=[old.address], timeout=30, stimulus_id="test"
            )
        )
        await old.finished()  # and now it is waited for the one that takes its place
        await both.kill_leader()
        leader = await both.take_over()
        assert len(leader.workers) == 1
        assert not asking.done()
        both.workers.append(await start_worker(both.address, dashboard_address=":0"))
        assert await asking == {old.address: "removed"}
        assert len(leader.workers) == 2


async def test_an_error_is_the_answer_of_the_next_leader_as_well() -> None:
    async with pair(1) as both:
        (old,) = both.workers
        await open_sessions(both)
        handle, failed = both.leader.handlers["restart"], asyncio.Event()

        async def fail(**kwargs: Any) -> None:
            with pytest.raises(TimeoutError, match="have not returned"):
                await handle(**kwargs)
            failed.set()
            await asyncio.Event().wait()

        both.leader.handlers["restart"] = fail
        asking = asyncio.ensure_future(both.client.restart(timeout=0.3))
        await failed.wait()
        await both.kill_leader()
        new = await asyncio.gather(
            both.take_over(), start_worker(both.address, dashboard_address=":0")
        )
        both.workers.append(new[1])
        with pytest.raises(TimeoutError, match=r"after 0\.3s, 1 have not returned"):
            await asking
        assert old.status == Status.closed
        assert await both.client.submit(work, "next") == "next"


@every_moment
async def test_who_has_to_retire_is_chosen_once_whenever_the_leader_dies(moment: str) -> None:
    async with pair(3) as both:
        futures = await on_each_worker(both)
        asking = both.client.retire_workers(n=1, close_workers=True)
        answer = await lose_leader(
            both,
            "retire_workers",
            moment,
            asking,
            lambda: any(closed(w)() for w in both.workers),
        )
        (address,) = answer
        (retired,) = [worker for worker in both.workers if worker.address == address]
        assert answer[address]["name"] == retired.name
        await retired.finished()
        staying = [worker for worker in both.workers if worker is not retired]
        assert set(both.leader.workers) == {worker.address for worker in staying}
        assert {worker.status for worker in staying} == {Status.running}
        assert await both.client.gather(futures) == ["on0", "on1", "on2"]
        assert set(runs.values()) == {1}
        await assert_nothing_is_left(both)


async def test_who_could_not_retire_is_not_named_by_the_next_leader() -> None:
    async with pair(1) as both:
        futures = await on_each_worker(both)
        (only,) = both.workers
        asking = both.client.retire_workers([only.address])

        def works_again() -> bool:
            return bool(both.leader.worker_operations._outcomes) and only.status == Status.running

        assert await lose_leader(both, "retire_workers", "done", asking, works_again) == {}
        assert list(both.leader.workers) == [only.address]
        assert await both.client.gather(futures) == ["on0"]
        await assert_nothing_is_left(both)


async def test_a_retirement_goes_on_though_its_client_leaves() -> None:
    async with pair() as both, another_client(both) as other:
        leaving, staying = both.workers
        await open_sessions(both)
        started = asyncio.Event()
        both.leader.extensions["amm"].run_once = started.set
        asking = asyncio.ensure_future(other.retire_workers([leaving.address]))
        await started.wait()
        del both.leader.extensions["amm"].run_once
        asking.cancel()
        await other.close()
        await eventually(lambda: set(both.leader.workers) == {staying.address})
        await eventually(lambda: not both.leader.worker_operations._known)
        await assert_nothing_is_left(both)


async def test_a_call_whose_caller_gave_up_does_not_take_the_next_ones_answer() -> None:
    async with pair() as both:
        old, _ = both.workers
        await open_sessions(both)
        asking = asyncio.ensure_future(
            both.client.scheduler.restart_workers(
                workers=[old.address], timeout=30, stimulus_id="test"
            )
        )
        await old.finished()
        asking.cancel()
        await asyncio.wait({asking})
        await both.client.set_metadata(["next"], 1)  # in the same slot
        ((session, slot, sequence),) = both.leader.worker_operations._known
        calls = both.leader.sessions.calls
        assert calls.answer(session, slot).sequence == sequence + 1
        both.workers.append(await start_worker(both.address, dashboard_address=":0"))
        await eventually(lambda: not both.leader.worker_operations._known)
        assert calls.answer(session, slot).sequence == sequence + 1
        await assert_nothing_is_left(both)


@pytest.mark.parametrize("op", ["retire_workers", "restart_workers"])
async def test_nobody_goes_for_another_one_that_was_at_the_same_address(op: str) -> None:
    (port,) = free_ports("127.0.0.1", 1)  # no connection takes it between the two
    async with pair(1) as both:
        old = await start_worker(both.address, port=port, dashboard_address=":0")
        both.workers.append(old)
        await open_sessions(both)
        both.leader.recorder.flush()
        commit = both.log.hold()
        how = {} if op == "retire_workers" else {"timeout": 5, "wait_for_workers": False}
        asking = asyncio.ensure_future(
            getattr(both.client.scheduler, op)(workers=[old.address], stimulus_id="test", **how)
        )
        await eventually(lambda: bool(both.leader.retirements))
        await old.close()
        await eventually(lambda: old.address not in both.leader.workers)
        new = await start_worker(both.address, port=port, dashboard_address=":0")
        assert new.address == old.address
        both.workers.append(new)
        commit()
        assert list(await asking) == [old.address]
        assert new.address in both.leader.workers
        assert new.status == Status.running
        await assert_nothing_is_left(both)


class Joins(SchedulerPlugin):  # type: ignore[misc]
    """No worker has joined before ``may_join``."""

    def __init__(self) -> None:
        self.may_join, self.began = asyncio.Event(), asyncio.Event()

    async def add_worker(self, scheduler: Any, worker: str) -> None:
        self.began.set()
        await self.may_join.wait()


async def test_nobody_waits_for_a_worker_that_died_with_its_leader_while_it_joined() -> None:
    async with pair(1) as both:
        (staying,) = both.workers
        await open_sessions(both)
        both.leader.plugins["joins"] = joins = Joins()
        starting = asyncio.ensure_future(start_worker(both.address, dashboard_address=":0"))
        await joins.began.wait()
        (joining,) = both.leader.workers.keys() - {staying.address}
        both.leader.recorder.flush()
        both.log.stall()
        asking = asyncio.ensure_future(both.client.retire_workers([joining]))
        await eventually(lambda: both.log.stalled > 0)
        starting.cancel()
        await asyncio.wait({starting})
        await both.kill_leader()
        both.log.resume()
        await both.take_over()
        assert list(await asking) == [joining]
        assert list(both.leader.workers) == [staying.address]
        await assert_nothing_is_left(both)
