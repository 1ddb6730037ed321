"""Scheduler plugins and uploaded files are there under every leader."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from distributed import SchedulerPlugin
from distributed.protocol.pickle import dumps

from ha_scheduler.engine.coordination.metadata import METADATA
from ha_scheduler.engine.stream.keys import encode_key
from tests.engine.conftest import (
    KeptLog,
    eventually,
    follow,
    leading,
    new_scheduler,
    pair,
    rebuild,
)


class Counting(SchedulerPlugin):
    """Knows the finished tasks, and keeps what it knows."""

    def __init__(self) -> None:
        self.finished: set[Any] = set()
        self.scheduler: Any = None

    def start(self, scheduler: Any) -> None:
        self.scheduler = scheduler  # from here on it cannot be pickled

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if finish == "memory":
            self.finished.add(key)

    def ha_state(self) -> set[Any]:
        return self.finished

    def ha_restore(self, state: set[Any]) -> None:
        self.finished = state


class Broken(SchedulerPlugin):
    """Starts once only."""

    starts = 0

    async def start(self, scheduler: Any) -> None:
        type(self).starts += 1
        if type(self).starts > 1:
            raise RuntimeError("not again")


async def test_a_scheduler_plugin_goes_on_with_its_state_under_the_next_leader() -> None:
    async with pair(workers=1) as both:
        await both.client.register_plugin(Counting(), name="counting")
        await both.client.submit(str, 1, key="one")
        both.leader.record_plugin_states()
        await both.kill_leader()
        leader = await both.take_over()
        assert leader.plugins["counting"].scheduler is leader
        assert leader.plugins["counting"].finished == {"one"}
        await both.client.submit(str, 2, key="two")
        await eventually(lambda: leader.plugins["counting"].finished == {"one", "two"})


async def test_a_plugin_that_cannot_start_again_does_not_stop_a_leader() -> None:
    Broken.starts = 0
    async with pair(workers=1) as both:
        await both.client.register_plugin(Broken(), name="broken")
        await both.kill_leader()
        leader = await both.take_over()
        assert Broken.starts == 2
        assert "broken" not in leader.plugins
        assert await both.client.submit(str, 1, key="one") == "1"


async def test_an_unregistered_plugin_is_gone_for_every_later_leader() -> None:
    log = KeptLog()
    async with leading(log, workers=1) as (scheduler, client, _):
        await client.register_plugin(Counting(), name="counting")
        scheduler.record_plugin_states()
        assert rebuild(log.records).recorded_plugins.keys() == {"counting"}
        assert follow(log.records).recorded_states.keys() == {"counting"}
        await client.unregister_scheduler_plugin("counting")
        for engine in (rebuild(log.records), follow(log.records)):
            assert not engine.recorded_plugins
            assert not engine.recorded_states


@pytest.mark.filterwarnings("ignore:Scheduler already contains a plugin")
async def test_a_plugin_does_not_get_the_state_of_one_that_had_its_name_before() -> None:
    log = KeptLog()
    async with leading(log, workers=1) as (scheduler, client, _):
        await client.register_plugin(Counting(), name="counting")
        scheduler.record_plugin_states()
        assert follow(log.records).recorded_states
        await scheduler.register_scheduler_plugin(Counting(), "counting", idempotent=False)
        assert not follow(log.records).recorded_states


async def test_a_module_that_was_uploaded_is_there_for_the_graphs_that_need_it(
    tmp_path: Path,
) -> None:
    name = "uploaded_for_a_test"
    source = tmp_path / f"{name}.py"
    source.write_text("def answer() -> int:\n    return 42\n")
    log = KeptLog()
    try:
        async with leading(log, workers=1) as (_, client, _workers):
            await client.upload_file(str(source))
            del sys.modules[name]
            follower = rebuild(log.records)
            assert Path(follower.local_directory, source.name).read_text() == source.read_text()
            assert sys.modules[name].answer() == 42
    finally:
        sys.modules.pop(name, None)


async def test_what_a_plugin_holds_is_recorded_once_while_it_stays_the_same() -> None:
    log = KeptLog()
    async with leading(log, workers=1) as (scheduler, client, _):
        await client.register_plugin(Counting(), name="counting")
        scheduler.record_plugin_states()
        written = len(log.records)
        scheduler.record_plugin_states()
        assert len(log.records) == written


async def test_a_value_that_cannot_be_read_here_does_not_end_the_engine() -> None:
    engine = new_scheduler()
    missing = b"cno_such_module_anywhere\nThing\n."
    engine.tables.apply(METADATA, encode_key("key"), missing)
    assert "key" not in engine.task_metadata
    engine.tables.apply(METADATA, encode_key("key"), dumps(1))
    assert engine.task_metadata["key"] == 1
