"""Events and topics: who waits is let go, and what was logged is kept, once."""

from __future__ import annotations

import asyncio

import pytest

from ha_scheduler.engine.coordination import events, topics
from tests.engine.conftest import eventually
from tests.engine.coordination import (
    Caller,
    Cell,
    in_a_cell,
    in_every_cell,
)


@in_every_cell
async def test_who_waited_when_an_event_was_set_is_let_go_though_it_is_clear_again(
    own: Cell,
) -> None:
    waiter, other = Caller(own, "waiter"), Caller(own, "other")
    waiter.call("event_wait", name="e")
    await eventually(lambda: bool(own.leader.extensions["events"]._waiters))
    await own.fail_over()
    await other.call("event_set", name="e")
    await other.call("event_clear", name="e")
    assert await waiter.repeat() is True


@in_a_cell
async def test_a_leader_that_set_an_event_and_told_nobody_is_made_up_for(own: Cell) -> None:
    """The record of the flag committed, and that of the waiter's answer did not."""
    waiter, other = Caller(own, "waiter"), Caller(own, "other")
    waiter.call("event_wait", name="e")
    await eventually(lambda: bool(own.leader.extensions["events"]._waiters))
    await other.call("event_clear", name="e")
    own.log.stall()
    other.call("event_set", name="e")
    await eventually(lambda: own.log.stalled == 2)
    await own.fail_over(lose=1)
    await other.call("event_clear", name="e")
    assert await waiter.repeat() is True


@in_a_cell
async def test_an_event_that_stays_clear_lets_nobody_go(own: Cell) -> None:
    waiter = Caller(own)
    waiter.call("event_wait", name="e", timeout=None)
    await eventually(lambda: bool(own.leader.extensions["events"]._waiters))
    await own.fail_over()
    waiting = waiter.repeat()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await own.fail_over()
    assert await waiter.repeat(timeout=0.01) is False
    assert not own.leader.extensions["events"]._waiters


@in_every_cell
async def test_events_of_a_topic_are_kept_and_logged_once(own: Cell) -> None:
    caller = Caller(own)
    for n in range(topics.EVENTS_PER_TOPIC_MAX + 5):
        await caller.call("log_event", topic="t", msg=n)
    before = await caller.call("events", slot=1, topic="t")
    await own.fail_over()
    await caller.repeat(0)
    after = await caller.call("events", slot=1, topic="t")
    assert after == before[-topics.EVENTS_PER_TOPIC_MAX :]
    await caller.call("log_event", topic="t", msg="next")
    times = [when for when, _ in await caller.call("events", slot=1, topic="t")]
    assert times == sorted(set(times))


@in_every_cell
async def test_the_row_of_a_wait_goes_when_nobody_waits_any_more(own: Cell) -> None:
    """Neither comes back to the next leader: one is gone, the other does something else."""
    for session in ("gone", "busy"):
        caller = Caller(own, session)
        caller.call("event_wait", name="e")
    await eventually(lambda: len(own.rows(events.WAITERS)) == 2)
    await own.fail_over()
    own.forget_client("gone")
    assert own.rows(events.WAITERS) == [("busy", 0)]
    await caller.call("event_set", name="another")
    assert own.rows(events.WAITERS) == []


@in_every_cell
async def test_the_oldest_events_make_room_for_new_ones(
    own: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "EVENTS_BYTES_MAX", 10_000)
    monkeypatch.setattr(topics, "EVENT_BYTES_MAX", 5_000)
    caller = Caller(own)
    for n in range(10):
        await caller.call("log_event", topic=f"t{n % 2}", msg=bytes([n]) * 2_000)
        if n == 5:
            await own.fail_over()
    await caller.call("log_event", topic="t1", msg=bytes(6_000))
    assert len(own.rows(topics.EVENTS)) == 4
    kept = own.leader._broker
    assert kept._bytes == sum(kept._sizes.values()) < 10_000
    assert len(await own.ask("events", topic="t1")) > 2, "this leader has them all"
    await own.fail_over()
    assert own.leader._broker._sizes == kept._sizes
    for topic, first in (("t0", 6), ("t1", 7)):
        found = [message[0] for _, message in await own.ask("events", topic=topic)]
        assert found == [first, first + 2]
    await caller.repeat()
    assert len(await own.ask("events", topic="t1")) == 2, "the large one is not logged again"
