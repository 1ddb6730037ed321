"""Variables, datasets, metadata and restrictions: what was set stays set, and is set once."""

from __future__ import annotations

import pytest

from ha_scheduler.engine.coordination import task_metadata
from tests.engine.coordination import (
    Caller,
    Cell,
    in_every_cell,
    value,
)


def increment(number: int) -> int:
    return number + 1


@in_every_cell
async def test_a_repeated_set_does_not_undo_what_was_set_meanwhile(own: Cell) -> None:
    one, other = Caller(own, "one"), Caller(own, "other")
    await one.call("variable_set", **value("v", 1))
    await one.call("event_set", name="e", slot=1)
    await one.call("set_metadata", keys=["a", "b"], value=1, slot=2)
    await own.fail_over()
    await other.call("variable_set", **value("v", 2))
    await other.call("event_clear", name="e")
    await other.call("set_metadata", keys=["a", "b"], value=2)
    for slot in range(3):
        await one.repeat(slot)
    assert (await other.call("variable_get", name="v"))["value"] == 2
    assert not await other.call("event_is_set", name="e")
    assert await other.call("get_metadata", keys=["a", "b"]) == 2
    await own.fail_over()
    assert (await other.call("variable_get", name="v"))["value"] == 2
    assert await other.call("get_metadata", keys=["a", "b"]) == 2


@in_every_cell
async def test_a_deleted_variable_stays_deleted(own: Cell) -> None:
    caller = Caller(own)
    await caller.call("variable_set", **value("v", 1))
    await caller.call("variable_delete", name="v")
    await own.fail_over()
    with pytest.raises(TimeoutError):
        await caller.call("variable_get", name="v", timeout=0.01)


@in_every_cell
async def test_a_dataset_stays_published_and_is_published_once(own: Cell) -> None:
    caller = Caller(own)
    put = {"names": ("d",), "keys": ((),), "data": ("data",), "override": False}

    async def publish() -> None:
        own.leader.stream_handlers["publish_flush_batched_send"](client="c", uid=b"u")
        await caller.call("publish_put", **put, client="c", uid=b"u")

    await publish()
    await own.fail_over()
    await caller.repeat()  # and not: it already exists
    with pytest.raises(KeyError, match="exists"):
        await publish()
    assert await own.ask("publish_list") == ["d"]
    (found,) = await own.ask("publish_get", names=("d",))
    assert found["data"] == "data"


@in_every_cell
async def test_a_dataset_without_futures_is_unpublished_by_the_next_leader(own: Cell) -> None:
    caller = Caller(own)
    stream = {"client": "c", "uid": b"u"}
    own.leader.stream_handlers["publish_flush_batched_send"](**stream)
    put = {"names": ("d",), "keys": ((),), "data": ("data",), "override": False}
    await caller.call("publish_put", **put, **stream)
    await own.fail_over()
    own.leader.stream_handlers["publish_flush_batched_send"](**stream)
    await caller.call("publish_delete", names=("d",), **stream)
    assert await own.ask("publish_list") == []


@in_every_cell
async def test_what_was_gathered_of_tasks_is_handed_over_once(own: Cell) -> None:
    caller = Caller(own)
    await caller.call("start_task_metadata", name="m")
    await own.submit({"x": (increment, 1)})
    await own.fail_over()
    await caller.repeat()
    found = await caller.call("stop_task_metadata", name="m")
    assert found == {"metadata": {}, "state": {}}
    await own.fail_over()
    assert await caller.repeat() == found
    with pytest.raises(ValueError, match="found 0"):
        await caller.call("stop_task_metadata", name="m")


@in_every_cell
async def test_a_restriction_is_kept_while_its_task_is_known(own: Cell) -> None:
    caller = Caller(own)
    await own.submit({"x": (increment, 1), "y": (increment, 2)})
    await caller.call("set_restrictions", worker={"x": "tcp://a:1", "y": None})
    await own.fail_over()
    assert own.leader.tasks["x"].worker_restrictions == {"tcp://a:1"}
    assert own.leader.tasks["y"].worker_restrictions is None
    own.leader.remove_client("Client-test")
    assert "x" not in own.leader.tasks
    await own.fail_over()
    assert not own.leader.restrictions


@in_every_cell
async def test_no_task_is_restricted_by_a_call_that_names_an_unknown_one(own: Cell) -> None:
    caller = Caller(own)
    await own.submit({"x": (increment, 1)})
    for wanted in ({"x": "tcp://a:1", "y": "tcp://a:1"}, {"y": "tcp://a:1", "x": "tcp://a:1"}):
        with pytest.raises(KeyError, match=r"no task was restricted.*\['y'\]"):
            await caller.call("set_restrictions", worker=wanted)
        assert own.leader.tasks["x"].worker_restrictions is None
        assert not own.leader.restrictions
    await own.fail_over()
    assert not own.leader.restrictions
    assert own.leader.tasks["x"].worker_restrictions is None


@in_every_cell
async def test_what_is_gathered_for_a_client_that_is_gone_goes_with_it(own: Cell) -> None:
    spaces = (task_metadata.COLLECTORS, task_metadata.AWAITED, task_metadata.COLLECTED)
    for session in ("gone", "here"):
        await Caller(own, session).call("start_task_metadata", name=session)
    await own.ask("start_task_metadata", name="of nobody")
    await own.submit({"x": (increment, 1)})
    assert len(own.rows(*spaces)) == 4
    await own.fail_over()
    own.forget_client("gone")
    assert sorted(own.rows(*spaces), key=str) == [("here", 1), "here"]
    assert "gone" not in own.leader.plugins
    await own.fail_over()
    assert "gone" not in own.leader.plugins
    assert "here" in own.leader.plugins
