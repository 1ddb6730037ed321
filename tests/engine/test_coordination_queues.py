"""Queues: an item is put once and got once, whichever leader a call reaches, and how often."""

from __future__ import annotations

import asyncio
import sys
from enum import Enum
from types import ModuleType
from typing import Any

import pytest

from tests.engine.conftest import eventually, follow, rebuild
from tests.engine.coordination import (
    Caller,
    Cell,
    in_a_cell,
    in_a_rebuilt_cell,
    in_every_cell,
    queue,
    value,
)


@in_every_cell
async def test_a_get_whose_answer_was_lost_gets_the_same_item_again(own: Cell) -> None:
    caller = Caller(own)
    await queue(caller, 0, 1, 2)
    first = await caller.call("queue_get", name="q")
    await own.fail_over()
    assert await caller.repeat() == first == {"type": "msgpack", "value": 0}
    assert (await caller.call("queue_get", name="q"))["value"] == 1
    await own.fail_over()
    assert (await caller.repeat())["value"] == 1
    assert await own.ask("queue_qsize", name="q") == 1


@pytest.mark.parametrize("batch", [True, 2])
@in_every_cell
async def test_a_batch_is_got_once(own: Cell, batch: Any) -> None:
    caller = Caller(own)
    await queue(caller, 0, 1)
    first = await caller.call("queue_get", name="q", batch=batch)
    assert [item["value"] for item in first] == [0, 1]
    await caller.call("queue_put", slot=1, **value("q", 2))
    await own.fail_over()
    assert list(await caller.repeat()) == first
    assert (await caller.call("queue_get", name="q"))["value"] == 2


@in_a_cell
async def test_a_batch_that_waits_for_more_gives_back_what_it_has_when_its_leader_dies(
    own: Cell,
) -> None:
    caller, other = Caller(own), Caller(own, "other")
    await queue(caller, 0, 1)
    caller.call("queue_get", name="q", batch=3)
    await eventually(lambda: not own.leader.extensions["queues"].queues["q"].items)
    await own.fail_over()
    waiting = caller.repeat()
    await other.call("queue_put", **value("q", 2))
    assert [item["value"] for item in await waiting] == [0, 1, 2]


@in_every_cell
async def test_a_put_is_done_once(own: Cell) -> None:
    caller = Caller(own)
    await queue(caller, "item")
    await own.fail_over()
    await caller.repeat()
    await caller.repeat()
    assert await own.ask("queue_qsize", name="q") == 1


@in_a_cell
async def test_a_put_that_never_committed_is_done_by_the_next_leader(own: Cell) -> None:
    caller = Caller(own)
    await queue(caller)
    own.log.stall()
    pending = caller.call("queue_put", **value("q", "item"))
    await eventually(lambda: own.log.stalled == 1)
    assert not pending.done(), "nothing is answered before it has committed"
    await own.fail_over(lose=own.log.stalled)
    assert await own.ask("queue_qsize", name="q") == 0
    await caller.repeat()
    assert await own.ask("queue_qsize", name="q") == 1


@in_every_cell
async def test_a_queue_goes_with_the_last_of_its_clients_and_not_before(own: Cell) -> None:
    caller = Caller(own)
    await caller.call("queue_create", name="q", maxsize=2)
    await caller.call("queue_create", name="q", maxsize=2, slot=1)
    await own.fail_over()
    await caller.repeat(1)
    await caller.call("queue_put", **value("q", 1))
    await caller.call("queue_release", name="q")
    await own.fail_over()
    await caller.repeat()
    assert await own.ask("queue_qsize", name="q") == 1
    assert own.leader.extensions["queues"].queues["q"].maxsize == 2
    await caller.call("queue_release", name="q")
    await own.fail_over()
    assert not own.leader.extensions["queues"].queues


@in_every_cell
async def test_a_queue_that_goes_while_somebody_gathers_a_batch_leaves_no_item_behind(
    own: Cell,
) -> None:
    caller, other = Caller(own), Caller(own, "other")
    await queue(caller, 0, 1)
    caller.call("queue_get", name="q", batch=3)
    await eventually(lambda: not own.leader.extensions["queues"].queues["q"].items)
    await other.call("queue_release", name="q")
    await other.call("queue_create", name="q")
    await own.fail_over()
    assert await own.ask("queue_qsize", name="q") == 0


@in_a_rebuilt_cell
async def test_a_long_item_travels_in_parts_and_comes_back_whole(own: Cell) -> None:
    caller = Caller(own)
    item = b"x" * 3_000_000
    await queue(caller, item)
    await own.fail_over()
    assert (await caller.call("queue_get", name="q"))["value"] == item
    await own.fail_over()
    assert (await caller.repeat())["value"] == item
    await caller.call("queue_put", **value("q", 1))
    assert rebuild(own.log.records).sessions.calls == own.leader.sessions.calls


@in_a_cell
async def test_many_items_leave_in_one_step(own: Cell) -> None:
    caller = Caller(own)
    await queue(caller)
    puts = [caller.call("queue_put", slot=n, **value("q", n)) for n in range(20_000)]
    await asyncio.gather(*puts)
    got = await caller.call("queue_get", slot=0, name="q", batch=True)
    assert len(got) == 20_000
    await own.fail_over()
    assert len(await caller.repeat(0)) == 20_000
    assert await own.ask("queue_qsize", name="q") == 0


@in_a_cell
async def test_a_full_queue_takes_what_waits_in_the_order_of_its_coming(own: Cell) -> None:
    caller = Caller(own)
    await queue(caller, maxsize=1)
    puts = [caller.call("queue_put", slot=n, **value("q", n)) for n in range(1, 4)]
    await asyncio.sleep(0.01)
    await own.fail_over()
    puts = [caller.repeat(slot) for slot in range(1, 4)]
    await asyncio.sleep(0.01)
    got = [(await caller.call("queue_get", name="q"))["value"] for _ in puts]
    assert got == [1, 2, 3]
    await asyncio.gather(*puts)


@in_a_cell
async def test_an_item_whose_module_a_follower_lacks_does_not_end_it(own: Cell) -> None:
    module = ModuleType("on_the_leader_alone")
    module.Colour = Enum("Colour", "RED", module=module.__name__)  # type: ignore[attr-defined]
    caller = Caller(own)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        await queue(caller, module.Colour.RED, 1)  # type: ignore[attr-defined]
        await caller.call("queue_get", name="q")
    for engine in (follow(own.log.records), rebuild(own.log.records)):
        assert [
            item["value"] for item in engine.extensions["queues"].queues["q"].items.values()
        ] == [1]
