"""What clients hear of topics and of tasks while their leader dies."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from distributed import get_worker

from tests.engine.conftest import eventually, pair
from tests.engine.interruptions import another_client, every_moment, increment, interrupted

started = threading.Event()
go_on = threading.Event()


async def test_a_subscriber_hears_of_every_event_once() -> None:
    async with pair() as both, another_client(both) as other:
        heard: list[int] = []
        both.client.subscribe_topic("t", lambda event: heard.append(event[1]))
        left: list[int] = []
        both.client.subscribe_topic("left", lambda event: left.append(event[1]))
        both.client.unsubscribe_topic("left")
        await both.client.get_metadata(["x"], default=None)
        await eventually(lambda: bool(both.leader._broker._topics["t"].subscribers))
        await other.log_event(["t", "left"], 1)
        await eventually(lambda: heard == [1])
        await interrupted(both, lambda: other.log_event("t", 2), lost=False)
        await other.log_event(["t", "left"], 3)
        await eventually(lambda: len(heard) == 3)
        assert heard == [1, 2, 3]
        assert [message for _, message in await both.client.get_events("t")] == heard
        assert not left


@pytest.mark.parametrize("before", [[], ["before"]])
async def test_a_subscriber_that_has_heard_nothing_yet_misses_nothing(before: list[str]) -> None:
    async with pair() as both, another_client(both) as other:
        for message in before:
            await other.log_event("t", message)
        heard: list[str] = []
        both.client.subscribe_topic("t", lambda event: heard.append(event[1]))
        await eventually(lambda: both.client._ha.topics.after("t") is not None)
        await interrupted(both, lambda: other.log_event("t", "during"), lost=False)
        await other.log_event("t", "after")
        await eventually(lambda: "after" in heard)
        assert heard == ["during", "after"]


async def test_a_subscriber_that_comes_back_before_an_event_commits_hears_of_it_once() -> None:
    async with pair() as both, another_client(both) as other:
        heard: list[int] = []
        both.client.subscribe_topic("t", lambda event: heard.append(event[1]))
        await eventually(lambda: bool(both.leader._broker._topics["t"].subscribers))
        await other.log_event("t", 1)
        await eventually(lambda: heard == [1])
        committed = both.log.hold()
        logging = asyncio.ensure_future(other.log_event("t", 2))
        await eventually(lambda: len(both.leader._broker._topics["t"].events) == 2)
        subscribed = asyncio.Event()
        both.client._ha.topics.subscribed = lambda topic, after: subscribed.set()
        both.client.scheduler_comm.abort()
        await subscribed.wait()
        assert heard == [1], "what has not committed is told to nobody"
        committed()
        await logging
        await other.log_event("t", 3)
        await eventually(lambda: 3 in heard)
        assert heard == [1, 2, 3]


async def test_what_a_task_logs_is_heard_before_its_result() -> None:
    async with pair() as both:
        heard: list[Any] = []
        both.client.subscribe_topic("task", lambda event: heard.append(event[1]["said"]))
        await eventually(lambda: both.client._ha.topics.after("task") is not None)
        committed = both.log.hold()
        await both.client.submit(log_from_a_task)
        assert heard == ["hello"]
        committed()


async def test_what_a_task_logs_is_heard_once_though_its_leader_dies() -> None:
    async with pair() as both:
        heard: list[Any] = []
        both.client.subscribe_topic("task", lambda event: heard.append(event[1]["said"]))
        await eventually(lambda: both.client._ha.topics.after("task") is not None)
        await both.client.submit(log_from_a_task, pure=False)
        await both.kill_leader()
        await both.take_over()
        await both.client.submit(log_from_a_task, pure=False)
        assert heard == ["hello", "hello"]


async def test_what_a_task_logs_is_kept() -> None:
    async with pair() as both:
        await both.client.submit(log_from_a_task)
        await eventually(lambda: bool(both.leader._broker._topics["task"].events))
        await both.kill_leader()
        await both.take_over()
        ((_, message),) = await both.client.get_events("task")
        assert message["said"] == "hello"


def log_from_a_task() -> None:
    get_worker().log_event("task", {"said": "hello"})


@every_moment
async def test_task_metadata_is_gathered_through_the_death_of_the_leader(lost: bool) -> None:
    async with pair() as both:
        await both.client.scheduler.start_task_metadata(name="m")
        before = both.client.submit(increment, 1, key="before")
        await before
        await interrupted(both, lambda: both.client.scheduler.start_task_metadata(name="n"), lost)
        after = both.client.submit(increment, before, key="after")
        assert await after == 3
        first = await both.client.scheduler.stop_task_metadata(name="m")
        assert first["state"] == {"before": "memory", "after": "memory"}
        second = await both.client.scheduler.stop_task_metadata(name="n")
        assert second["state"] == {"after": "memory"}


def leave_metadata(about: Any) -> int:
    """A task whose metadata is there while it runs, and which goes on when it is told to."""
    worker = get_worker()
    worker.state.tasks["x"].metadata["about"] = about
    started.set()
    go_on.wait(30)
    return 1


async def test_what_a_task_leaves_that_finishes_while_nobody_leads_is_gathered() -> None:
    started.clear()
    go_on.clear()
    async with pair() as both:
        await both.client.scheduler.start_task_metadata(name="m")
        future = both.client.submit(leave_metadata, ("itself", 1), key="x")
        await eventually(started.is_set)
        await both.kill_leader()
        go_on.set()
        await eventually(lambda: any("x" in worker.data for worker in both.workers))
        await both.take_over()
        assert await future == 1
        found = await both.client.scheduler.stop_task_metadata(name="m")
        assert found["state"] == {"x": "memory"}
        assert found["metadata"] == {"x": {"about": ("itself", 1)}}
