"""Sessions of numbered calls: when they begin and end, and that nothing is done twice by that."""

from __future__ import annotations

import asyncio

import pytest

from ha_scheduler.engine.stream.calls import SESSION_IDLE_SECONDS
from ha_scheduler.ledger.calls import Calls
from ha_scheduler.ledger.records import CallsEnded
from ha_scheduler.protocol.client import EXPIRED, LOST
from tests.engine.conftest import eventually
from tests.engine.coordination import (
    Caller,
    Cell,
    forget_silent,
    in_a_cell,
    in_every_cell,
    queue,
    value,
)

MOMENTS = ["arrived", "lost", "appended", "answered"]


@pytest.mark.parametrize("forget", [Cell.forget_client, forget_silent])
@pytest.mark.parametrize("forgotten_by", ["the same leader", "the next leader"])
@pytest.mark.parametrize("moment", MOMENTS)
@in_every_cell
async def test_a_first_call_is_not_done_twice_though_its_caller_was_forgotten(
    own: Cell, moment: str, forgotten_by: str, forget: object
) -> None:
    assert callable(forget)
    await queue(Caller(own, "other"))
    caller = Caller(own)
    await caller.open()
    if moment in ("lost", "appended"):
        own.log.stall()
    if moment == "arrived":
        caller.note("queue_put", **value("q", 1))
    else:
        put = caller.call("queue_put", **value("q", 1))
        if moment == "answered":
            await put
        else:
            await eventually(lambda: own.log.stalled == 1)
    if forgotten_by == "the same leader" and moment not in ("lost", "appended"):
        forget(own, "s")
    await own.fail_over(lose=own.log.stalled if moment == "lost" else 0)
    if forgotten_by == "the next leader":
        forget(own, "s")
    known = "s" in own.leader.sessions.calls
    answer = await caller.repeat()
    done = moment in ("appended", "answered")
    assert answer is None if known else answer == EXPIRED
    assert await own.ask("queue_qsize", name="q") == (1 if done or known else 0)
    await own.fail_over()
    assert (await caller.repeat()) == answer
    assert await own.ask("queue_qsize", name="q") == (1 if done or known else 0)


@in_every_cell
async def test_a_session_whose_opening_was_told_is_known_to_every_later_leader(own: Cell) -> None:
    own.log.stall()
    caller = Caller(own)
    opening = asyncio.ensure_future(caller.open())
    await eventually(lambda: own.log.stalled == 1)
    await asyncio.sleep(0.01)
    assert not opening.done(), "a caller that believes it were open would send a call"
    await own.fail_over(lose=1)
    assert "s" not in own.leader.sessions.calls
    await caller.open()
    await own.fail_over()
    await caller.open()  # the answer was lost
    await queue(caller, 1)
    assert await own.ask("queue_qsize", name="q") == 1


@in_every_cell
async def test_all_sessions_of_a_client_end_with_it(own: Cell) -> None:
    for session in ("one", "two"):
        await Caller(own, session, owner="journal").call("event_set", name="e")
    await Caller(own, "another").call("event_set", name="e")
    own.forget_client("journal")
    assert list(own.leader.sessions.calls) == ["another"]
    await own.fail_over()
    assert list(own.leader.sessions.calls) == ["another"]


@in_a_cell
async def test_a_silent_session_ends_unless_its_owner_is_there(own: Cell) -> None:
    for session in ("present", "gone"):
        await Caller(own, session).call("event_set", name="e")
    own.leader.session_of["Client-1"] = "present"
    forget_silent(own, "gone")
    assert list(own.leader.sessions.calls) == ["present"]
    assert [type(r) for r in own.log.records].count(CallsEnded) == 1
    assert list(own.leader.calls._heard) == ["present"], "nor is it remembered when it was heard"


@in_a_cell
async def test_a_failover_gives_silent_sessions_their_whole_time_again(own: Cell) -> None:
    """Time without a leader must not count, and how long that was nobody knows."""
    await Caller(own).call("event_set", name="e")
    own.leader.calls._heard["s"] -= SESSION_IDLE_SECONDS + 1
    await own.fail_over()
    own.leader.calls._sweep()
    assert "s" in own.leader.sessions.calls


@in_every_cell
async def test_of_large_answers_the_oldest_are_dropped_and_whoever_repeats_such_a_call_hears_so(
    own: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Calls.excess, "__defaults__", (250_000,))
    caller = Caller(own)
    await queue(caller, *(bytes([n]) * 100_000 for n in range(4)))
    for slot in range(3):
        await caller.call("queue_get", slot, name="q")
    assert own.leader.sessions.calls.heavy_bytes < 250_000
    await own.fail_over()
    assert await caller.repeat(0) == LOST
    for slot in (1, 2):
        assert (await caller.repeat(slot))["value"] == bytes([slot]) * 100_000
    assert await own.ask("queue_qsize", name="q") == 1
    assert (await caller.call("queue_get", 0, name="q"))["value"] == bytes([3]) * 100_000


@in_a_cell
async def test_the_latest_answer_is_kept_however_large_it_is(
    own: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Calls.excess, "__defaults__", (1,))
    caller = Caller(own)
    item = b"x" * 1_000_000
    await queue(caller, item)
    await caller.call("queue_get", 1, name="q")
    await own.fail_over()
    assert (await caller.repeat(1))["value"] == item
