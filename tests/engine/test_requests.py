"""Requests that a library or a plugin adds to a scheduler, and those that nobody added."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import distributed
import pytest
from distributed.core import rpc

from client_replay import client as replaying
from tests.engine.conftest import KeptLog, end, eventually, leading, new_scheduler, pair


def install(dask_scheduler: Any) -> None:
    """As optuna's DaskStorage and others add themselves to the scheduler of the moment."""
    kept: dict[str, int] = {}

    def put(comm: Any, k: str, v: int) -> str:
        kept[k] = v
        return "stored"

    dask_scheduler.handlers.update(eco_put=put, eco_get=lambda k: kept[k])


class Installed(distributed.SchedulerPlugin):
    """The same, for each leader."""

    name = "eco"

    def start(self, scheduler: Any) -> None:
        install(scheduler)


async def test_what_was_added_to_a_leader_alone_is_refused_by_the_next_and_never_answered_as_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair(workers=0) as both:
        await both.client.run_on_scheduler(install)
        assert await both.client.scheduler.eco_put(k="a", v=1) == "stored"
        await both.kill_leader()
        await both.take_over()
        for op, arguments in (("eco_put", {"k": "b", "v": 2}), ("eco_get", {"k": "a"})):
            with pytest.raises(NotImplementedError, match=rf"{op}.*SchedulerPlugin"):
                await getattr(both.client.scheduler, op)(**arguments)
        await eventually(lambda: both.client.status == "running")
    assert not [r for r in caplog.records if r.exc_info and r.levelno >= logging.WARNING]


async def test_a_client_without_this_package_is_refused_in_words_that_it_can_read() -> None:
    async with (
        leading(KeptLog(), workers=0) as (scheduler, _, _),
        rpc(scheduler.address) as plain,
    ):
        for op in ("eco_put", "eco_put"):  # on one connection, which goes on
            with pytest.raises(NotImplementedError, match=r"eco_put.*SchedulerPlugin"):
                await getattr(plain, op)(k="a")
        assert (await plain.identity())["id"] == scheduler.id


async def test_what_a_plugin_adds_is_there_under_each_leader() -> None:
    async with pair(workers=0) as both:
        await both.client.register_plugin(Installed())
        assert await both.client.scheduler.eco_put(k="a", v=1) == "stored"
        await both.kill_leader()
        await both.take_over()
        assert await both.client.scheduler.eco_put(k="a", v=2) == "stored"
        assert await both.client.scheduler.eco_get(k="a") == 2


class Lease:
    """A lease that a test ends."""

    held = True

    def valid(self) -> bool:
        return self.held


@pytest.mark.parametrize("how", ["item", "update", "setdefault", "union"])
async def test_a_handler_added_later_waits_for_the_barrier_and_for_the_lease(how: str) -> None:
    scheduler, ran = new_scheduler(), []

    def added() -> str:
        ran.append(scheduler.recovery.is_open)
        return "done"

    match how:
        case "item":
            scheduler.handlers["eco"] = added
        case "update":
            scheduler.handlers.update({"eco": added})
        case "setdefault":
            scheduler.handlers.setdefault("eco", added)
        case "union":
            scheduler.handlers |= {"eco": added}
    scheduler.recorded_workers["tcp://127.0.0.1:1"] = "w"  # it listens, and never reports
    await scheduler.activate(1, KeptLog(), lambda phase, detail: None, 600)
    scheduler._call.cancel()
    lease = scheduler.handlers._lease = Lease()
    scheduler.handlers["late"] = added
    early = asyncio.ensure_future(scheduler.handlers["eco"]())
    await asyncio.sleep(0)
    assert not ran
    scheduler.recovery._open()
    assert await early == "done"
    assert ran == [True]
    lease.held = False
    late = asyncio.ensure_future(scheduler.handlers["late"]())
    await asyncio.sleep(0.05)
    assert ran == [True]  # what it does may not be undone
    lease.held = True
    assert await late == "done"
    await end(scheduler)


async def test_that_a_function_leaves_something_in_one_leader_only_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    replaying._say_what_ends_with_the_leader.cache_clear()
    async with pair(workers=0) as both:
        with caplog.at_level(logging.WARNING, logger=replaying.logger.name):
            for _ in range(3):
                await both.client.run_on_scheduler(lambda dask_scheduler: None)
        said = [r for r in caplog.records if "SchedulerPlugin" in r.getMessage()]
        assert len(said) == 1
        await eventually(lambda: both.client.status == "running")
