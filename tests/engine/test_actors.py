"""Actors go on under the next leader, or are told as lost; none is silently made anew."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from distributed import Actor, wait

from client_replay import Client, OutcomeUnknown
from ha_scheduler.ledger.records import ValueSet
from tests.engine.conftest import (
    Pair,
    end,
    eventually,
    follow,
    keep_away,
    pair,
    replay,
    say_nothing,
    start_worker,
)
from tests.engine.counted import begin, gate, runs

LOST = "Worker holding Actor was lost"
entered = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()
    entered.clear()


class Tally:
    """An actor."""

    kind = "tally"

    def __init__(self) -> None:
        runs["made"] += 1
        self.value = 0

    def increment(self) -> int:
        self.value += 1
        return self.value

    def increment_slowly(self) -> int:
        runs["slow"] += 1
        entered.set()
        gate.wait(30)
        return self.increment()


class SlowlyMade(Tally):
    def __init__(self) -> None:
        super().__init__()
        gate.wait(30)


def use(tally: Any) -> int:
    """A task with an actor for its input."""
    runs["used"] += 1
    return int(tally.increment().result())


def use_both(tally: Any, number: float) -> float:
    return float(tally.increment().result() + number)


def divide(dividend: float, divisor: float) -> float:
    return dividend / divisor


async def make(both: Pair, kind: type = Tally, **kwargs: Any) -> tuple[Any, Any]:
    """An actor, and its future."""
    with both.client.as_current():
        future = both.client.submit(kind, actor=True, **kwargs)
        return await future, future


async def lose_with_leader(both: Pair, *workers: Any) -> Any:
    await both.kill_leader()
    for worker in workers:
        both.workers.remove(worker)
        await worker.close()
    return await both.take_over()


# The actor itself


async def test_an_actor_that_died_with_the_leader_is_told_as_lost_and_not_made_anew() -> None:
    async with pair() as both:
        holder, other = both.workers
        actor, future = await make(both, workers=[holder.address], allow_other_workers=True)
        waiting = both.client.submit(use, future, workers=["nowhere"])
        await eventually(lambda: waiting.key in both.leader.tasks)
        leader = await lose_with_leader(both, holder)
        await eventually(lambda: future.status == "error")
        for lost in (future, waiting):
            with pytest.raises(RuntimeError, match=LOST):
                await lost
        with both.client.as_current(), pytest.raises(RuntimeError, match=LOST):
            actor.increment()
        assert runs["made"] == 1
        leader.validate_state()
        await both.client.retry([future])
        with both.client.as_current():
            again = await future
            assert await again.increment() == 1
        assert runs["made"] == 2
        assert leader.actors_created == {future.key: other.address}


async def test_an_actor_that_was_lost_stays_lost_under_a_third_leader() -> None:
    async with pair() as both:
        holder, _ = both.workers
        _, future = await make(both, workers=[holder.address], allow_other_workers=True)
        await lose_with_leader(both, holder)
        await eventually(lambda: future.status == "error")
        await both.kill_leader()
        both.ports.reverse()
        third = both._scheduler(1)
        replay(third, both)
        await third.activate(3, both.log, both._mark)
        await third.recovery.opened()
        both.leader, both.former = third, both.leader
        assert third.tasks[future.key].state == "erred"
        assert await both.client.submit(int) == 0
        assert runs["made"] == 1


@pytest.mark.parametrize("answers", [True, False])
async def test_an_actor_waits_for_a_worker_that_is_there_and_reports_late(answers: bool) -> None:
    async with pair() as both:
        late, _ = both.workers
        actor, future = await make(both, workers=[late.address], allow_other_workers=True)
        with both.client.as_current():
            assert await actor.increment() == 1
        free = keep_away(late) if answers else say_nothing(late)
        await both.kill_leader()
        leader = await both.take_over(window_seconds=0.2)
        assert leader.tasks[future.key].state != "erred"
        free.set()
        with both.client.as_current():
            again = await future
            assert await again.increment() == 2
        assert runs["made"] == 1
        leader.validate_state()


async def test_an_actor_of_a_silent_worker_that_ends_is_told_as_lost_and_not_made_anew() -> None:
    async with pair() as both:
        silent, _ = both.workers
        _, future = await make(both, workers=[silent.address], allow_other_workers=True)
        say_nothing(silent)
        await both.kill_leader()
        leader = await both.take_over(window_seconds=0.2)
        assert leader.tasks[future.key].state != "erred"
        both.workers.remove(silent)
        await silent.close()
        with pytest.raises(RuntimeError, match=LOST):
            await future
        assert runs["made"] == 1
        leader.validate_state()


async def test_an_actor_that_was_being_made_is_made_once() -> None:
    async with pair() as both:
        making = asyncio.ensure_future(make(both, SlowlyMade))
        await eventually(lambda: runs["made"] == 1)
        await both.kill_leader()
        leader = await both.take_over()
        gate.set()
        actor, future = await making
        assert await actor.increment() == 1
        assert runs["made"] == 1
        assert future.key in leader.actors_created
        leader.validate_state()


async def test_an_actor_that_no_worker_had_heard_of_is_made_by_the_next_leader() -> None:
    async with pair() as both:
        assert await both.client.submit(int) == 0  # the cell knows the client
        for stream in both.leader.stream_comms.values():
            stream.send = lambda *messages: None
        making = asyncio.ensure_future(make(both))
        await eventually(lambda: any(ts.actor for ts in both.leader.tasks.values()))
        await eventually(lambda: not len(both.client._ha.journal))
        await both.kill_leader()
        leader = await both.take_over()
        actor, _ = await making
        assert await actor.increment() == 1
        assert runs["made"] == 1
        leader.validate_state()


async def test_an_actor_is_not_lost_to_tasks_that_have_failed() -> None:
    """It was given up with them, and is known for the sake of the failed tasks alone."""
    async with pair() as both:
        with both.client.as_current():
            made = both.client.submit(Tally, actor=True)
            failed = both.client.submit(use_both, made, both.client.submit(divide, 1, 0))
            await wait([made, failed])
        key = made.key
        made.release()
        await eventually(lambda: both.leader.tasks[key].state == "released")
        assert key in both.leader.actors_created
        await both.kill_leader()
        leader = await both.take_over()
        assert not leader.actors_created
        with pytest.raises(ZeroDivisionError):
            await failed
        assert runs["made"] == 1


async def test_an_actor_waits_for_a_worker_that_comes_after_the_takeover() -> None:
    async with pair(1) as both:
        making = asyncio.ensure_future(make(both, workers=["late"]))
        await eventually(lambda: bool(both.leader.unrunnable))
        await both.kill_leader()
        leader = await both.take_over()
        both.workers.append(await start_worker(both.address, name="late", dashboard_address=":0"))
        actor, _ = await making
        assert await actor.increment() == 1
        assert runs["made"] == 1
        leader.validate_state()


@pytest.mark.parametrize("lost", ["its record", "its graph"])
async def test_an_actor_of_which_nobody_was_told_is_made_once(lost: str) -> None:
    async with pair() as both:
        assert await both.client.submit(int) == 0  # the cell knows the client
        if lost == "its graph":
            both.log.stall()
        making = asyncio.ensure_future(make(both, SlowlyMade))
        await eventually(lambda: runs["made"] == 1)
        if lost == "its record":
            await eventually(lambda: not len(both.client._ha.journal))
            both.log.stall()
        gate.set()
        await eventually(lambda: bool(both.leader.actors_created))
        both.leader.recorder.flush()
        assert any(isinstance(r, ValueSet) and r.space == "actor" for r in both.log.records)
        await asyncio.sleep(0.1)  # an answer before the commit would be there by then
        assert not making.done()
        await both.kill_leader(lose_records=both.log.stalled)
        both.log.resume()
        leader = await both.take_over()
        actor, future = await making
        assert await actor.increment() == 1
        assert runs["made"] == 1
        assert future.key in leader.actors_created
        leader.validate_state()


async def test_the_record_of_an_actor_goes_with_it() -> None:
    async with pair() as both:
        actor, future = await make(both)
        key = future.key
        assert key in both.leader.actors_created
        del actor
        future.release()
        await eventually(lambda: key not in both.leader.tasks)
        assert not both.leader.actors_created
        await both.kill_leader()
        leader = await both.take_over()
        assert not leader.actors_created


async def test_an_actor_is_recorded_though_the_worker_that_made_it_first_was_lost() -> None:
    async with pair() as both:
        leader, commit = both.leader, both.log.hold()
        future = both.client.submit(Tally, actor=True, key="tally")
        await eventually(lambda: "tally" in leader.actors_created)
        first = leader.actors_created["tally"]
        await leader.remove_worker(first, stimulus_id="lost")
        await eventually(lambda: leader.actors_created.get("tally") not in (None, first))
        second = leader.actors_created["tally"]
        commit()
        await eventually(lambda: leader.tasks["tally"].state == "memory")
        assert leader.actors_created == {"tally": second}
        follower = follow(both.log.records)
        assert follower.actors_created == {"tally": second}
        await end(follower)
        del future


async def test_a_handle_on_another_worker_is_not_taken_for_the_actor() -> None:
    async with pair(3) as both:
        await both.client.amm.stop()
        holder, user, _ = both.workers
        actor, future = await make(both, workers=[holder.address], allow_other_workers=True)
        with both.client.as_current():
            assert await both.client.submit(use, future, workers=[user.address]) == 1
        await eventually(lambda: future.key in user.data)
        leader = await lose_with_leader(both, holder)
        with pytest.raises(RuntimeError, match=LOST):
            await future
        assert runs["made"] == 1
        leader.validate_state()
        del actor


# Calls in flight


@pytest.mark.parametrize("direct", [True, False])
async def test_a_call_goes_on_if_it_is_direct_and_else_its_outcome_is_unknown(direct: bool) -> None:
    async with (
        pair(1) as both,
        Client(
            both.address, asynchronous=True, set_as_default=False, direct_to_workers=direct
        ) as client,
    ):
        with client.as_current():
            actor: Actor = await client.submit(Tally, actor=True)
            call = actor.increment_slowly()
            await eventually(entered.is_set)
            await both.kill_leader()
            gate.set()
            await both.take_over()
            if direct:
                assert await call == 1
            else:
                with pytest.raises(OutcomeUnknown, match="increment_slowly"):
                    await call
            assert runs["slow"] == 1
            assert await actor.increment() == 2


async def test_a_call_that_is_made_while_nobody_leads_waits_for_the_next_leader() -> None:
    async with pair(1) as both:
        actor, _ = await make(both)
        with both.client.as_current():
            await both.kill_leader()
            call = actor.increment()
            kind = asyncio.ensure_future(actor.kind)
            await both.take_over()
            assert await call == 1
            assert await kind == "tally"
