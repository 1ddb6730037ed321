"""A numbered call is done once and answered alike, whichever leader it reaches, and how often."""

from __future__ import annotations

import asyncio

import pytest
from distributed.core import Status

from client_replay.calls.rpc import NUMBERED
from ha_scheduler.engine.scheduler import CALLS
from ha_scheduler.ledger.records import Called, ClientLeft
from ha_scheduler.protocol.client import CallId
from ha_scheduler.protocol.codec import to_op
from tests.engine.conftest import eventually, rebuild
from tests.engine.coordination import (
    Caller,
    Cell,
    in_a_cell,
    queue,
    value,
)


@in_a_cell
async def test_a_reader_is_not_told_what_has_not_committed(own: Cell) -> None:
    caller, reader = Caller(own), Caller(own, "reader")
    await caller.call("variable_set", **value("v", 1))
    own.log.stall()
    caller.call("variable_set", **value("v", 2))
    await eventually(lambda: own.log.stalled == 1)
    read = reader.call("variable_get", name="v")
    await asyncio.sleep(0.05)
    assert not read.done()
    await own.fail_over(lose=own.log.stalled)
    assert (await reader.repeat())["value"] == 1


@in_a_cell
async def test_a_call_that_arrives_twice_at_one_leader_is_handled_once(own: Cell) -> None:
    caller = Caller(own)
    await queue(caller)
    waits = [caller.call("queue_get", name="q"), caller.repeat()]
    await asyncio.sleep(0.01)
    for n in range(2):
        await caller.call("queue_put", slot=1, **value("q", n))
    assert [item["value"] for item in await asyncio.gather(*waits)] == [0, 0]
    assert await own.ask("queue_qsize", name="q") == 1


@in_a_cell
async def test_a_get_that_was_given_up_takes_nothing(own: Cell) -> None:
    caller, gone = Caller(own), Caller(own, "gone")
    await queue(caller)
    given_up = caller.call("queue_get", name="q")
    left = gone.call("queue_get", name="q")
    await asyncio.sleep(0.01)
    await caller.call("queue_qsize", name="q")  # the next call of its slot
    own.leader.calls.abandon("gone")
    await caller.call("queue_put", **value("q", "item"))
    assert (await caller.call("queue_get", name="q"))["value"] == "item"
    for call in (given_up, left):
        with pytest.raises(asyncio.CancelledError):
            await call


@in_a_cell
async def test_a_call_that_was_overtaken_in_its_slot_is_not_done(own: Cell) -> None:
    caller = Caller(own)
    await queue(caller, 1)
    late = own.ask("queue_put", **value("q", 0), ha_call=to_op(CallId("s", 0, 1)))
    assert await late is Status.dont_reply
    assert await own.ask("queue_qsize", name="q") == 1


@in_a_cell
async def test_one_answer_is_kept_for_each_call_under_way(own: Cell) -> None:
    caller = Caller(own)
    await queue(caller)
    waiting = caller.call("queue_get", slot=1, name="another")
    for n in range(50):
        await caller.call("queue_put", **value("q", n))
        await caller.call("queue_get", name="q")
    with pytest.raises(KeyError):
        await waiting
    assert len(own.leader.sessions.calls._slots["s"]) == 1
    assert rebuild(own.log.records).sessions.calls == own.leader.sessions.calls


@in_a_cell
async def test_every_operation_is_one_of_the_scheduler(own: Cell) -> None:
    assert sorted(CALLS - set(own.leader.handlers)) == []
    assert sorted(NUMBERED - CALLS) == []
    assert not [r for r in own.log.records if isinstance(r, (Called, ClientLeft))]
