"""Clients and tasks that coordinate while their leader dies: plain code of ``distributed``.

The leader is stopped in the middle of a call, after what it did has entered the log and before that
has committed (``lost`` or not), or while the call waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from distributed import Event, Lock, MultiLock, Queue, Semaphore, Variable
from distributed.metrics import monotonic

from ha_scheduler.engine.coordination import key_holds
from ha_scheduler.engine.coordination.semaphores import LOCK_IDLE_SECONDS
from ha_scheduler.engine.scheduler import Scheduler
from tests.engine.conftest import Pair, eventually, pair
from tests.engine.interruptions import another_client, every_moment, increment, interrupted

started = threading.Event()


@pytest.fixture
def _short_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_holds, "HOLD_SECONDS", 0.5)


@every_moment
async def test_a_put_and_a_get_through_the_death_of_the_leader(lost: bool) -> None:
    async with pair() as both:
        queue = await Queue("q", client=both.client)
        await queue.put("before")
        await interrupted(both, lambda: queue.put("during"), lost)
        assert await queue.qsize() == 2
        assert await queue.get() == "before"
        assert await queue.get() == "during"


@pytest.mark.usefixtures("_short_holds")
@every_moment
async def test_a_get_of_a_future_through_the_death_of_the_leader(lost: bool) -> None:
    """Its only other holder is gone: the queue, and then the answer, keep the result."""
    async with pair() as both:
        queue = await Queue("q", client=both.client)
        async with another_client(both) as other:
            future = other.submit(increment, 1, key="one")
            await future
            await queue.put(future)
        await eventually(lambda: len(both.leader.tasks["one"].who_wants) == 1)
        got = await interrupted(both, queue.get, lost)
        assert await got == 2
        leader = both.leader
        await eventually(
            lambda: {cs.client_key for cs in leader.tasks["one"].who_wants} == {both.client.id}
        )
        leader.validate_state()


@pytest.mark.usefixtures("_short_holds")
async def test_a_future_that_was_got_and_let_go_is_released_by_the_queue_as_well() -> None:
    async with pair() as both:
        queue = await Queue("q", client=both.client)
        future = both.client.submit(increment, 1, key="one")
        await queue.put(future)
        del future
        got = await interrupted(both, queue.get, lost=False)
        assert await got == 2
        del got
        await eventually(lambda: "one" not in both.leader.tasks)


@every_moment
async def test_a_variable_and_the_future_in_it(lost: bool) -> None:
    async with pair() as both:
        variable = Variable("v", client=both.client)
        await variable.set("before")
        async with another_client(both) as other:
            future = other.submit(increment, 1, key="one")
            await future
            theirs = Variable("v", client=other)
            await interrupted(both, lambda: theirs.set(future), lost)
        got = await variable.get()
        assert await got == 2
        both.leader.validate_state()


@every_moment
async def test_a_lock_is_taken_once(lost: bool) -> None:
    async with pair() as both:
        lock = Lock("l", scheduler_rpc=both.client.scheduler, loop=both.client.loop)
        await lock
        assert await interrupted(both, lock.acquire, lost)
        other = Lock("l", scheduler_rpc=both.client.scheduler, loop=both.client.loop)
        assert not await other.acquire(timeout=0.05)
        await lock.release()
        assert await other.acquire(timeout=5)


@every_moment
async def test_a_release_lets_the_next_one_in(lost: bool) -> None:
    async with pair() as both:
        rpc = {"scheduler_rpc": both.client.scheduler, "loop": both.client.loop}
        one, other = Semaphore(1, "s", **rpc), Semaphore(1, "s", **rpc)
        await one
        assert await one.acquire()
        waiting = asyncio.ensure_future(other.acquire())
        await interrupted(both, one.release, lost)
        assert await waiting
        assert await other.get_value() == 1


@every_moment
async def test_several_locks_are_taken_and_given_back_once(lost: bool) -> None:
    async with pair() as both:
        one = MultiLock(["x", "y"], client=both.client)
        other = MultiLock(["y", "z"], client=both.client)
        assert await interrupted(both, one.acquire, lost)
        waiting = asyncio.ensure_future(other.acquire())
        await eventually(lambda: len(both.leader.extensions["multi_locks"].requests) == 2)
        await one.release()
        assert await waiting


@every_moment
async def test_an_event_that_is_set_while_the_leader_dies(lost: bool) -> None:
    async with pair() as both:
        event = Event("e", client=both.client)
        waiting = asyncio.ensure_future(event.wait())
        await eventually(lambda: bool(both.leader.extensions["events"]._waiters))
        await interrupted(both, event.set, lost)
        assert await waiting
        assert await event.is_set()


@every_moment
async def test_a_dataset_that_is_published_while_the_leader_dies(lost: bool) -> None:
    async with pair() as both:
        held = {"d": both.client.submit(increment, 1, key="one")}
        await held["d"]
        await interrupted(both, lambda: both.client.publish_dataset(held), lost)
        held.clear()
        assert await both.client.list_datasets() == ("d",)
        async with another_client(both) as other:
            assert await (await other.get_dataset("d")) == 2
        await both.client.unpublish_dataset("d")
        await eventually(lambda: "one" not in both.leader.tasks)


async def test_nobody_is_left_of_an_unpublished_dataset_with_this_leader_or_the_next() -> None:
    async with pair() as both:
        for name in ("one", "two"):
            await both.client.publish_dataset(**{name: both.client.submit(increment, 1, key=name)})
        await both.client.unpublish_dataset("one")
        assert {c for c in both.leader.clients if c.startswith("published-")} == {"published-two"}
        await eventually(lambda: "one" not in both.leader.tasks)
        await both.kill_leader()
        leader = await both.take_over()
        assert {c for c in leader.clients if c.startswith("published-")} == {"published-two"}
        assert await (await both.client.get_dataset("two")) == 2
        await both.client.unpublish_dataset("two")
        await eventually(lambda: not {c for c in leader.clients if c.startswith("published-")})
        await eventually(lambda: not leader.tasks)


@every_moment
async def test_metadata_that_is_set_while_the_leader_dies(lost: bool) -> None:
    async with pair() as both:
        await interrupted(both, lambda: both.client.set_metadata(["a", "b"], 1), lost)
        assert await both.client.get_metadata(["a"]) == {"b": 1}


async def waiting_through(
    both: Pair, begun: Callable[[Scheduler], bool], waits: Awaitable[Any]
) -> asyncio.Future[Any]:
    """The wait, which has begun with one leader, with the next."""
    pending = asyncio.ensure_future(waits)
    await eventually(lambda: begun(both.leader))
    await both.kill_leader()
    await both.take_over()
    assert not pending.done()
    return pending


def waits_at(op: str) -> Callable[[Scheduler], bool]:
    return lambda leader: op in leader._comms.values()


async def test_a_wait_for_an_item_goes_on() -> None:
    async with pair() as both:
        queue = await Queue("q", client=both.client)
        pending = await waiting_through(both, waits_at("queue_get"), queue.get())
        await queue.put(1)
        assert await pending == 1
        assert await queue.qsize() == 0


async def test_a_wait_for_room_goes_on() -> None:
    async with pair() as both:
        queue = await Queue("q", client=both.client, maxsize=1)
        await queue.put(1)
        pending = await waiting_through(both, waits_at("queue_put"), queue.put(2))
        assert await queue.get() == 1
        await pending
        assert await queue.get() == 2


async def test_a_wait_for_a_variable_a_lock_and_an_event_goes_on() -> None:
    async with pair() as both:
        rpc = {"scheduler_rpc": both.client.scheduler, "loop": both.client.loop}
        held, wanted = Lock("l", **rpc), Lock("l", **rpc)
        await held
        await held.acquire()
        variable, event = Variable("v", client=both.client), Event("e", client=both.client)
        waits = asyncio.gather(variable.get(), event.wait(), wanted.acquire())
        begun = [waits_at(op) for op in ("variable_get", "event_wait", "semaphore_acquire")]
        pending = await waiting_through(
            both, lambda leader: all(each(leader) for each in begun), waits
        )
        await asyncio.gather(variable.set(3), event.set(), held.release())
        assert await pending == [3, True, True]


async def test_a_wait_ends_in_its_time_though_the_leader_died() -> None:
    async with pair() as both:
        queue = await Queue("q", client=both.client)
        event = Event("e", client=both.client)
        began = asyncio.get_running_loop().time()
        waits = asyncio.gather(queue.get(timeout=2), event.wait(2), return_exceptions=True)
        pending = await waiting_through(both, waits_at("queue_get"), waits)
        timed_out, was_set = await pending
        assert isinstance(timed_out, TimeoutError)
        assert was_set is False
        assert 2 <= asyncio.get_running_loop().time() - began < 4


def consume(name: str) -> Any:
    """Inside a task: a queue, a lock, a variable, an event, and a future through a queue."""
    queue, lock, event = Queue(name), Lock("l"), Event("e")
    with lock:
        started.set()
        item = queue.get()  # from now on it waits
        event.set()
        Variable("v").set(item)
    return queue.get().result()


async def test_a_task_that_coordinates_goes_on() -> None:
    started.clear()
    async with pair() as both:
        queue = await Queue("q", client=both.client)
        task = both.client.submit(consume, "q")
        await eventually(started.is_set)
        await eventually(lambda: waits_at("queue_get")(both.leader))
        await both.kill_leader()
        leader = await both.take_over()
        assert leader.extensions["semaphores"].get_value("l") == 1
        await queue.put("item")
        assert await Event("e", client=both.client).wait(10)
        assert await Variable("v", client=both.client).get() == "item"
        await queue.put(both.client.submit(increment, 1))
        assert await task == 2
        assert leader.extensions["semaphores"].get_value("l") == 0


@every_moment
async def test_a_queue_and_a_variable_that_are_given_up_while_the_leader_dies_are_gone(
    lost: bool,
) -> None:
    async with pair() as both:
        queue = await Queue("q", client=both.client)
        variable = Variable("v", client=both.client)
        await variable.set(1)
        both.log.stall()
        for _ in range(both.leader.extensions["queues"].client_refcount["q"]):
            queue.close()  # awaiting a queue that was made with a client opened it twice
        variable.delete()
        await eventually(lambda: both.log.stalled > 2)
        await both.kill_leader(lose_records=both.log.stalled if lost else 0)
        both.log.resume()
        leader = await both.take_over()
        await eventually(lambda: "q" not in leader.extensions["queues"].queues)
        await eventually(lambda: "v" not in leader.extensions["variables"].variables)


async def test_a_lock_that_the_cell_forgot_is_taken_again_and_a_closed_one_is_not() -> None:
    async with pair() as both:
        rpc = {"scheduler_rpc": both.client.scheduler, "loop": both.client.loop}
        lock, other = Lock("l", **rpc), Lock("l", **rpc)
        assert await lock.acquire()
        assert not await other.acquire(timeout=0.01)
        await lock.release()
        semaphores = both.leader.extensions["semaphores"]
        semaphores._forget(monotonic() + LOCK_IDLE_SECONDS + 1)
        assert not semaphores.max_leases
        await both.kill_leader()
        await both.take_over()
        assert await other.acquire()
        await other.release()
        await lock.close()
        with pytest.raises(RuntimeError, match="not known"):
            await other.acquire()


@every_moment
async def test_a_task_is_restricted_through_the_death_of_the_leader(lost: bool) -> None:
    async with pair() as both:
        address = both.workers[1].address
        blocked = both.client.submit(increment, 1, workers=["tcp://127.0.0.1:1"], key="x")
        await eventually(lambda: "x" in both.leader.tasks)
        await interrupted(
            both,
            lambda: both.client.scheduler.set_restrictions(worker={"x": address}),
            lost,
        )
        assert both.leader.tasks["x"].worker_restrictions == {address}
        if not lost:  # it waited for a worker when the new leader began to place tasks
            assert await blocked == 2
            assert "x" in both.workers[1].data


async def test_a_queue_and_a_variable_that_are_given_up_while_nobody_leads_are_gone() -> None:
    async with pair() as both:
        queue = await Queue("q", client=both.client)
        variable = Variable("v", client=both.client)
        await variable.set(1)
        opened = both.leader.extensions["queues"].client_refcount["q"]
        await both.kill_leader()
        await eventually(lambda: both.client.status == "connecting")
        for _ in range(opened):
            queue.close()
        variable.delete()
        leader = await both.take_over()
        await eventually(lambda: "q" not in leader.extensions["queues"].queues)
        await eventually(lambda: "v" not in leader.extensions["variables"].variables)


async def test_a_client_that_left_while_it_waited_takes_nothing() -> None:
    async with pair() as both:
        queue = await Queue("q", client=both.client)
        async with another_client(both) as other:
            theirs = await Queue("q", client=other)
            gone = asyncio.ensure_future(theirs.get())
            await eventually(lambda: waits_at("queue_get")(both.leader))
        await asyncio.gather(gone, return_exceptions=True)
        await eventually(lambda: other.id not in both.leader.clients)
        await queue.put(1)
        assert await queue.get(timeout=5) == 1
