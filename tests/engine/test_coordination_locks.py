"""Semaphores, locks, and several locks at once through failovers."""

from __future__ import annotations

import asyncio

import pytest

from tests.engine.conftest import eventually
from tests.engine.coordination import (
    Caller,
    Cell,
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
