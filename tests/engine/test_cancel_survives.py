"""``Client.cancel`` through the death of a leader: what it cancels, what not, and who hears of it.

The leader dies before it has heard of a cancellation, or when it has recorded it and told nobody;
that record is lost, or it is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from distributed import fire_and_forget

from ha_scheduler.ledger.records import Answered
from tests.engine.conftest import Pair, eventually, pair, rebuild
from tests.engine.counted import begin, blocked, gate, runs, work
from tests.engine.interruptions import another_client, every_moment

every_start = pytest.mark.parametrize("rebuilt", [False, True], ids=["follow", "rebuild"])


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


@asynccontextmanager
async def busy() -> AsyncIterator[Pair]:
    """A pair whose only worker is held by a task, which ends well in the end."""
    async with pair(1) as both:
        held = both.client.submit(blocked, "held", key="held")
        await eventually(lambda: runs["held"] == 1)
        yield both
        gate.set()
        assert await held == "held"


async def chain(both: Pair) -> list[Any]:
    """Futures x, y, z, each of the one before."""
    x = both.client.submit(work, 1, key="x")
    y = both.client.submit(work, x, key="y")
    z = both.client.submit(work, y, key="z")
    await eventually(lambda: {"x", "y", "z"} <= set(both.leader.tasks))
    return [x, y, z]


async def committed(client: Any) -> None:
    """Until the cell has all that the client has asked for."""
    await eventually(lambda: len(client._ha.journal) == 0)


async def mute(both: Pair) -> None:
    """The leader records, and tells nobody any more."""
    both.leader.recorder.flush()
    for comm in both.leader.client_comms.values():
        comm.send = lambda *messages: None
    both.log.stall()


async def die(both: Pair, lost: bool, rebuilt: bool = False) -> Any:
    """The muted leader dies when it has recorded something; the next one."""
    await eventually(lambda: any(isinstance(r, Answered) for r in last(both)))
    await both.kill_leader(lose_records=both.log.stalled if lost else 0)
    both.log.resume()
    return await both.take_over(rebuilt=rebuilt)


def last(both: Pair) -> list[Any]:
    return both.log.records[-both.log.stalled :] if both.log.stalled else []


async def test_a_task_that_was_cancelled_before_the_failover_stays_cancelled() -> None:
    async with busy() as both:
        unwanted = both.client.submit(work, 2, key="unwanted")
        await eventually(lambda: "unwanted" in both.leader.tasks)
        await both.client.cancel([unwanted])
        await eventually(lambda: "unwanted" not in both.leader.tasks)
        # A worker that was not told yet would report it, and be let go on for a while.
        await eventually(lambda: "unwanted" not in both.workers[0].state.tasks)
        await both.kill_leader()
        leader = await both.take_over()
        assert unwanted.cancelled()
        assert "unwanted" not in leader.tasks
        await eventually(lambda: "unwanted" not in both.workers[0].state.tasks)
    assert not runs[2]


async def test_a_cancellation_while_nobody_leads_is_one_for_the_next_leader() -> None:
    async with busy() as both:
        unwanted = both.client.submit(work, 2, key="unwanted")
        await eventually(lambda: "unwanted" in both.leader.tasks)
        await both.kill_leader()
        await both.client.cancel([unwanted])
        leader = await both.take_over()
        await eventually(lambda: "unwanted" not in leader.tasks)
        await eventually(lambda: "unwanted" not in both.workers[0].state.tasks)
    assert not runs[2]


async def test_a_cancellation_that_the_leader_took_with_it_is_done_by_the_next() -> None:
    async with busy() as both:
        unwanted = both.client.submit(work, 2, key="unwanted")
        await eventually(lambda: "unwanted" in both.leader.tasks)
        heard: list[Any] = []
        both.leader.stream_handlers["cancel-keys"] = lambda **kwargs: heard.append(kwargs)
        await both.client.cancel([unwanted])
        await eventually(lambda: bool(heard))
        await both.kill_leader()
        leader = await both.take_over()
        await eventually(lambda: "unwanted" not in leader.tasks)
        await eventually(lambda: "unwanted" not in both.workers[0].state.tasks)
    assert not runs[2]


@every_start
async def test_what_depends_on_a_future_that_is_cancelled_while_nobody_leads_is_cancelled(
    rebuilt: bool,
) -> None:
    async with busy() as both:
        x, y, z = await chain(both)
        await both.kill_leader()
        await both.client.cancel([y], reason="no need", msg="any more")
        leader = await both.take_over(rebuilt=rebuilt)
        await eventually(z.cancelled)
        assert (z._state.exception.reason, z._state.exception.msg) == ("no need", "any more")
        await eventually(lambda: set(leader.tasks) == {"held", "x"})
        gate.set()
        assert await x == 1
        leader.validate_state()


@every_start
@every_moment
async def test_what_depends_on_a_cancelled_future_is_cancelled_though_its_leader_told_nobody(
    lost: bool, rebuilt: bool
) -> None:
    async with busy() as both:
        x, y, z = await chain(both)
        await committed(both.client)
        await mute(both)
        await both.client.cancel([y], reason="no need", msg="any more")
        leader = await die(both, lost, rebuilt)
        await eventually(z.cancelled)
        assert (z._state.exception.reason, z._state.exception.msg) == ("no need", "any more")
        await eventually(lambda: set(leader.tasks) == {"held", "x"})
        await committed(both.client)
        gate.set()
        assert await x == 1
        await eventually(lambda: not leader._notices)
        leader.recorder.flush()
        assert not rebuild(both.log.records)._notices


@every_start
@every_moment
async def test_a_cancellation_does_not_touch_what_was_submitted_again_after_it(
    lost: bool, rebuilt: bool
) -> None:
    """A future that depended on the first run is cancelled, the one of the second is not."""
    async with busy() as both:
        x, _, z = await chain(both)
        await committed(both.client)
        await mute(both)
        await both.client.cancel([x])
        again = both.client.submit(work, 7, key="x")
        leader = await die(both, lost, rebuilt)
        await eventually(z.cancelled)
        assert not again.cancelled()
        await committed(both.client)
        assert leader.tasks["x"].who_wants
        gate.set()
        assert await again == 7
        assert not runs[1]


async def test_a_dependent_resubmitted_at_once_is_not_cancelled_by_the_word_of_it() -> None:
    async with busy() as both:
        x, _, z = await chain(both)
        await both.client.cancel([x])
        z.release()
        while "z" in both.client.futures:  # noqa: ASYNC110 - not one step longer
            await asyncio.sleep(0)  # before the leader has heard of anything
        assert "x" in both.leader.tasks
        again = both.client.submit(work, 7, key="z")
        await eventually(lambda: "x" not in both.leader.tasks)
        await committed(both.client)
        assert not again.cancelled()
        gate.set()
        assert await again == 7


@every_start
@every_moment
async def test_the_futures_of_others_are_cancelled_by_force_alone(
    lost: bool, rebuilt: bool
) -> None:
    async with busy() as both, another_client(both) as other:
        mine = both.client.submit(work, 1, key="shared")
        theirs = other.submit(work, 1, key="shared")
        private = other.submit(work, theirs, key="private")
        kept = both.client.submit(work, 2, key="kept")
        also = other.submit(work, 2, key="kept")
        await eventually(lambda: {"private", "kept"} <= set(both.leader.tasks))
        await eventually(lambda: len(both.leader.tasks["kept"].who_wants) == 2)
        await committed(both.client)
        await committed(other)
        await mute(both)
        await both.client.cancel([kept])
        await both.client.cancel([mine], force=True, reason="by force")
        leader = await die(both, lost, rebuilt)
        await eventually(lambda: theirs.cancelled() and private.cancelled())
        assert theirs._state.exception.reason == "by force"
        assert kept.cancelled()
        assert not also.cancelled()
        await eventually(lambda: set(leader.tasks) == {"held", "kept"})
        gate.set()
        assert await also == 2
        leader.validate_state()


async def test_a_cancellation_that_was_acknowledged_is_not_taken_back() -> None:
    """Another client needs the task: it lives on, and is not wanted again by who cancelled it."""
    async with busy() as both, another_client(both) as other:
        x = both.client.submit(work, 1, key="x")
        y = both.client.submit(work, x, key="y")
        await eventually(lambda: "y" in both.leader.tasks)
        theirs = other.get(
            {"top": (work, "y"), "y": (work, "x"), "x": (work, 1)}, "top", sync=False
        )
        await eventually(lambda: "top" in both.leader.tasks)
        await committed(both.client)
        for comm in both.leader.client_comms.values():
            send = comm.send
            comm.send = lambda *said, send=send: send(
                *(m for m in said if m["op"] != "cancelled-keys")
            )
        await both.client.cancel([x])
        await committed(both.client)
        await both.kill_leader()
        leader = await both.take_over()
        await eventually(y.cancelled)
        await eventually(lambda: not leader._notices)
        me = leader.clients[both.client.id]
        assert {ts.key for ts in me.wants_what} == {"held"}
        gate.set()
        assert await theirs == 1


async def test_an_intermediate_result_that_nobody_wants_does_not_end_the_stream() -> None:
    """scheduler.py:5786 asserts that somebody wants each task."""
    async with busy() as both:
        x = both.client.submit(work, 1, key="x")
        await eventually(lambda: "x" in both.leader.tasks)
        y = both.client.get({"y": (work, "hidden"), "hidden": (work, x)}, "y", sync=False)
        await eventually(lambda: "y" in both.leader.tasks)
        stream = both.leader.client_comms[both.client.id]
        await both.client.cancel([x])
        await eventually(y.cancelled)
        await eventually(lambda: set(both.leader.tasks) == {"held"})
        assert both.leader.client_comms[both.client.id] is stream


async def test_a_long_chain_is_cancelled_as_a_whole() -> None:
    """Upstream's recursion exhausts the stack, and ends the client's stream."""
    async with busy() as both:
        futures = [both.client.submit(work, 0, key="0")]
        for n in range(1, 1000):
            futures.append(both.client.submit(work, futures[-1], key=str(n)))
        await committed(both.client)
        await both.client.cancel(futures[:1])
        await eventually(futures[-1].cancelled)
        await eventually(lambda: set(both.leader.tasks) == {"held"})


async def test_a_task_that_was_told_to_run_anyway_is_not_cancelled() -> None:
    """The order in which both were said counts, and goes on to the next leader."""
    async with busy() as both:
        await both.kill_leader()
        wanted = both.client.submit(work, 1, key="wanted")
        fire_and_forget(wanted)
        await both.client.cancel([wanted])
        unwanted = both.client.submit(work, 2, key="unwanted")
        await both.client.cancel([unwanted])
        leader = await both.take_over()
        await committed(both.client)
        assert set(leader.tasks) == {"held", "wanted"}
        last = both.client.submit(work, 3, key="last")
        await eventually(lambda: "last" in both.workers[0].state.tasks)  # and all told before
        assert "unwanted" not in both.workers[0].state.tasks
        gate.set()
        assert await last == 3
        await eventually(lambda: set(leader.tasks) == {"held", "last"})
        assert (runs[1], runs[2]) == (1, 0)


@every_start
async def test_a_result_of_before_a_cancellation_is_not_that_of_the_task_submitted_after_it(
    rebuilt: bool,
) -> None:
    async with pair(1) as both:
        first = both.client.submit(work, 1, key="x")
        kept = both.client.submit(work, first, key="kept")
        assert await both.client.gather([first, kept]) == [1, 1]
        await both.kill_leader()
        await both.client.cancel([first])
        again = both.client.submit(work, 2, key="x")
        assert "x" in both.workers[0].data
        await both.take_over(rebuilt=rebuilt)
        assert await again == 2
        await eventually(kept.cancelled)


async def test_what_a_worker_holds_of_a_cancelled_task_is_freed_at_once() -> None:
    async with pair(1) as both:
        other = both.client.submit(work, 0, key="other")
        future = both.client.submit(work, 1, key="x")
        assert await both.client.gather([other, future]) == [0, 1]
        await committed(both.client)
        both.leader.send_all = lambda *_, **__: None  # its worker never hears of it
        await both.client.cancel([future])
        await committed(both.client)
        await both.kill_leader()
        assert "x" in both.workers[0].data
        leader = await both.take_over()
        assert "x" not in leader.tasks
        assert not leader.adoption.orphans
        await eventually(lambda: "x" not in both.workers[0].data)
