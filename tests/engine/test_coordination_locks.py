"""Semaphores, locks, and several locks at once through failovers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from distributed.metrics import monotonic

from ha_scheduler.engine.coordination.multi_locks import REQUESTS
from ha_scheduler.engine.coordination.semaphores import (
    CLOSED,
    CLOSED_SECONDS,
    LEASES,
    LOCK_IDLE_SECONDS,
    SEMAPHORES,
    Semaphores,
)
from tests.engine.conftest import eventually
from tests.engine.coordination import (
    Caller,
    Cell,
    forget_silent,
    in_a_cell,
    in_every_cell,
    lease,
)


@in_every_cell
async def test_a_lease_is_kept_and_dated_anew_at_a_takeover(own: Cell) -> None:
    caller = Caller(own)
    await caller.call("semaphore_register", name="l", max_leases=1, lease_timeout=0.2)
    assert await own.ask("semaphore_acquire", **lease("l", "mine"))
    await asyncio.sleep(0.3)  # longer than a lease lasts; nobody looked meanwhile
    await own.fail_over()
    semaphores = own.leader.extensions["semaphores"]
    semaphores._check_lease_timeout()
    assert await own.ask("semaphore_value", name="l") == 1
    assert await own.ask("semaphore_acquire", **lease("l", "mine"))
    assert not await own.ask("semaphore_acquire", **lease("l", "theirs", timeout=0.01))
    await asyncio.sleep(0.3)
    semaphores._check_lease_timeout()
    assert await own.ask("semaphore_acquire", **lease("l", "theirs"))
    await own.fail_over()
    assert list(own.leader.extensions["semaphores"].leases["l"]) == ["theirs"]


@in_every_cell
async def test_a_released_or_closed_semaphore_is_that_afterwards(own: Cell) -> None:
    caller = Caller(own)
    for name in ("open", "closed"):
        await caller.call("semaphore_register", name=name, max_leases=2, lease_timeout=None)
        await own.ask("semaphore_acquire", **lease(name, "a"))
        await own.ask("semaphore_acquire", **lease(name, "b"))
    await own.ask("semaphore_release", **lease("open", "a"))
    with pytest.warns(RuntimeWarning, match="unreleased"):
        await caller.call("semaphore_close", name="closed")
    await own.fail_over()
    semaphores = own.leader.extensions["semaphores"]
    assert {name: list(ids) for name, ids in semaphores.leases.items()} == {"open": ["b"]}
    assert semaphores.max_leases == {"open": 2}
    with pytest.raises(RuntimeError, match="not known"):
        await own.ask("semaphore_acquire", **lease("closed", "c"))


@in_every_cell
async def test_who_waits_for_several_locks_keeps_the_place_in_line(own: Cell) -> None:
    callers = {id: Caller(own, id) for id in "abc"}
    ask = {id: {"locks": ["x", "y"], "id": id, "num_locks": 2} for id in callers}
    assert await callers["a"].call("multi_lock_acquire", **ask["a"])
    for id in "bc":
        callers[id].call("multi_lock_acquire", **ask[id])
        await eventually(lambda id=id: id in own.leader.extensions["multi_locks"].requests)
    await own.fail_over()
    assert await callers["a"].repeat()
    waiting = {id: callers[id].repeat() for id in "cb"}  # the other way round
    await callers["a"].call("multi_lock_release", id="a")
    assert await waiting["b"]
    assert not waiting["c"].done()
    await own.fail_over()
    assert await callers["a"].repeat() is None
    waiting["c"] = callers["c"].repeat()
    await callers["b"].call("multi_lock_release", id="b")
    assert await waiting["c"]


@in_a_cell
async def test_a_wait_for_several_locks_ends_in_time(own: Cell) -> None:
    one, other = Caller(own, "one"), Caller(own, "other")
    ask = {"locks": ["x"], "num_locks": 1}
    assert await one.call("multi_lock_acquire", id="one", **ask)
    assert await other.call("multi_lock_acquire", id="other", timeout=0.05, **ask) is False
    await own.fail_over()
    assert await other.repeat() is False
    await one.call("multi_lock_release", id="one")
    assert not own.leader.extensions["multi_locks"].requests


async def registered(caller: Caller, name: str, most: int = 1) -> None:
    await caller.call("semaphore_register", name=name, max_leases=most, lease_timeout=30)


async def used(own: Cell, name: str) -> None:
    assert await own.ask("semaphore_acquire", **lease(name, "once"))
    await own.ask("semaphore_release", **lease(name, "once"))


def later(own: Cell, seconds: float) -> Semaphores:
    """What is done from time to time, when so much time is over."""
    semaphores: Semaphores = own.leader.extensions["semaphores"]
    semaphores._forget(monotonic() + seconds)
    return semaphores


@in_every_cell
async def test_a_lock_that_nobody_uses_is_forgotten_and_can_be_registered_again(own: Cell) -> None:
    caller = Caller(own)
    await registered(caller, "l")
    await used(own, "l")
    later(own, LOCK_IDLE_SECONDS - 1)
    assert own.rows(SEMAPHORES, CLOSED, LEASES) == ["l"]
    semaphores = later(own, LOCK_IDLE_SECONDS + 1)
    assert own.rows(SEMAPHORES, CLOSED, LEASES) == []
    assert not semaphores.max_leases
    assert not semaphores._used
    await own.fail_over()
    assert await own.ask("ha-lock-forgotten", name="l")
    await registered(caller, "l")
    await used(own, "l")


@in_every_cell
async def test_a_lock_that_is_held_or_awaited_is_not_forgotten(own: Cell) -> None:
    caller = Caller(own)
    await registered(caller, "l")
    assert await own.ask("semaphore_acquire", **lease("l", "mine"))
    waiting = asyncio.ensure_future(own.ask("semaphore_acquire", **lease("l", "theirs")))
    await own.fail_over()
    later(own, LOCK_IDLE_SECONDS + 1)
    again = asyncio.ensure_future(own.ask("semaphore_acquire", **lease("l", "theirs")))
    await asyncio.sleep(0.01)
    later(own, LOCK_IDLE_SECONDS + 1)
    await own.ask("semaphore_release", **lease("l", "mine"))
    assert await again
    later(own, LOCK_IDLE_SECONDS + 1)
    assert await own.ask("semaphore_value", name="l") == 1
    waiting.cancel()


@in_every_cell
async def test_what_a_caller_could_not_register_again_is_not_forgotten(own: Cell) -> None:
    caller = Caller(own)
    await registered(caller, "semaphore", most=2)
    await registered(caller, "lock")
    await own.ask("semaphore_register", name="lock", max_leases=1, lease_timeout=30)
    await own.ask("semaphore_register", name="plain", max_leases=1, lease_timeout=30)
    await own.fail_over()
    later(own, LOCK_IDLE_SECONDS + 1)
    assert sorted(own.rows(SEMAPHORES)) == ["lock", "plain", "semaphore"]


@in_every_cell
async def test_a_lock_that_was_closed_is_not_taken_for_a_forgotten_one(own: Cell) -> None:
    caller = Caller(own)
    await registered(caller, "l")
    await caller.call("semaphore_close", name="l")
    await own.fail_over()
    assert not await own.ask("ha-lock-forgotten", name="l")
    later(own, CLOSED_SECONDS - 1)
    assert own.rows(SEMAPHORES, CLOSED) == ["l"]
    later(own, CLOSED_SECONDS + 1)
    assert own.rows(SEMAPHORES, CLOSED) == []
    await registered(caller, "m")
    await caller.call("semaphore_close", name="m")
    await registered(caller, "m")
    await used(own, "m")
    assert own.rows(CLOSED) == []


@in_a_cell
async def test_a_refreshed_lease_of_a_closed_lock_leaves_no_row(own: Cell) -> None:
    caller = Caller(own)
    await registered(caller, "l")
    assert await own.ask("semaphore_acquire", **lease("l", "mine"))
    with pytest.warns(RuntimeWarning, match="unreleased"):
        await caller.call("semaphore_close", name="l")
    await own.ask("semaphore_refresh_leases", name="l", lease_ids=["mine"])
    assert own.rows(LEASES) == []


@in_every_cell
async def test_who_does_not_wait_for_several_locks_any_more_is_not_in_the_way(own: Cell) -> None:
    """Two that waited do not come back to the next leader: one is gone, one does something else."""
    ask = {"locks": ["x"], "num_locks": 1}
    holder, gone, busy = (Caller(own, each) for each in ("holder", "gone", "busy"))
    assert await holder.call("multi_lock_acquire", id="holder", **ask)
    for each in (gone, busy):
        each.call("multi_lock_acquire", id=each.session, **ask)
        locks = own.leader.extensions["multi_locks"]
        await eventually(lambda locks=locks, each=each: each.session in locks.requests)
    await own.fail_over()
    own.forget_client("gone")
    await busy.call("event_set", name="e")
    assert own.rows(REQUESTS) == ["holder"]
    await holder.call("multi_lock_release", id="holder")
    assert await busy.call("multi_lock_acquire", id="busy", **ask)


@in_a_cell
async def test_who_asks_again_for_locks_after_having_given_up_waits_again(own: Cell) -> None:
    ask = {"locks": ["x"], "num_locks": 1}
    holder, other = Caller(own, "holder"), Caller(own, "other")
    assert await holder.call("multi_lock_acquire", id="holder", **ask)
    given_up = other.call("multi_lock_acquire", id="other", **ask)
    await asyncio.sleep(0.01)
    waiting = other.call("multi_lock_acquire", id="other", **ask)  # the next call of its slot
    await asyncio.sleep(0.01)
    await holder.call("multi_lock_release", id="holder")
    assert await waiting
    await asyncio.gather(given_up, return_exceptions=True)
    assert own.leader.extensions["multi_locks"].requests == {"other": {"x"}}


@pytest.mark.parametrize("end", [Cell.forget_client, forget_silent])
@pytest.mark.parametrize("ended_by", ["the same leader", "the next leader"])
@in_every_cell
async def test_several_locks_of_a_caller_that_is_gone_for_good_are_released(
    own: Cell, ended_by: str, end: Callable[[Cell, str], None]
) -> None:
    ask = {"locks": ["x", "y"], "num_locks": 2}
    holder, other = Caller(own, "holder"), Caller(own, "other")
    assert await holder.call("multi_lock_acquire", id="holder", **ask)
    waiting = other.call("multi_lock_acquire", id="other", **ask)
    await eventually(lambda: "other" in own.leader.extensions["multi_locks"].requests)
    if ended_by == "the next leader":
        await own.fail_over()
        waiting = other.repeat()
        await asyncio.sleep(0.01)
    assert not waiting.done()
    own.leader.session_of["Client-other"] = "other"  # it is there, however silent
    end(own, "holder")
    assert await waiting
    await own.fail_over()
    locks = own.leader.extensions["multi_locks"]
    assert locks.requests == {"other": {"x", "y"}}
    assert own.rows(REQUESTS) == ["other"]


@in_every_cell
async def test_a_leader_that_died_before_it_released_what_was_left_leaves_it_to_the_next(
    own: Cell,
) -> None:
    holder, other = Caller(own, "holder"), Caller(own, "other")
    ask = {"locks": ["x"], "num_locks": 1}
    assert await holder.call("multi_lock_acquire", id="holder", **ask)
    own.forget_client("holder")
    own.leader.recorder.flush()
    assert not own.leader.extensions["multi_locks"].requests
    await own.fail_over(lose=1)  # the row
    assert own.rows(REQUESTS) == []
    assert await other.call("multi_lock_acquire", id="other", **ask)


@in_every_cell
async def test_several_locks_are_kept_while_their_holder_is_away_for_a_moment(own: Cell) -> None:
    holder = Caller(own, "holder")
    assert await holder.call("multi_lock_acquire", id="holder", locks=["x"], num_locks=1)
    own.leader.session_of["Client-holder"] = "holder"
    forget_silent(own, "holder")  # it has said nothing for long, and is there
    del own.leader.session_of["Client-holder"]
    own.leader.calls._sweep()
    await own.fail_over()
    assert own.leader.extensions["multi_locks"].requests == {"holder": {"x"}}
