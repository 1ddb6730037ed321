"""What plugins set up in workers and nannies is there under the next leader, and set up once."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from distributed import NannyPlugin, WorkerPlugin
from distributed.diagnostics.plugin import InstallPlugin

from ha_scheduler.worker.nanny import Nanny
from tests.engine.conftest import eventually, pair, replay, start_worker
from tests.engine.counted import begin, gate, runs
from tests.engine.interruptions import every_moment, interrupted


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


class Counted(WorkerPlugin):  # type: ignore[misc]
    name = "counted"

    def setup(self, worker: Any) -> None:
        runs["setup", worker.name] += 1

    def teardown(self, worker: Any) -> None:
        runs["teardown", worker.name] += 1


def install() -> None:
    runs["installed"] += 1


def say(text: str) -> None:
    logging.getLogger("tests.said").warning(text)


async def test_a_worker_plugin_stays_set_up_and_is_there_for_workers_that_join_later() -> None:
    async with pair() as both:
        await both.client.register_plugin(Counted())
        await both.kill_leader()
        await both.take_over()
        both.workers.append(await start_worker(both.address, name="late", dashboard_address=":0"))
        assert dict(runs) == {("setup", name): 1 for name in ("w0", "w1", "late")}


async def test_a_plugin_is_registered_while_nobody_leads_and_gone_once_unregistered() -> None:
    async with pair(1) as both:
        await both.kill_leader()
        registering = asyncio.ensure_future(both.client.register_plugin(Counted()))
        leader = await both.take_over()
        await registering
        assert "counted" in leader.worker_plugins
        assert dict(runs) == {("setup", "w0"): 1}
        await both.client.unregister_worker_plugin("counted")
        await both.kill_leader()
        both.ports.reverse()
        third = both._scheduler(1)
        replay(third, both)
        await third.activate(3, both.log, both._mark)
        await third.recovery.opened()
        both.leader, both.former = third, both.leader
        assert "counted" not in third.worker_plugins
        assert dict(runs) == {("setup", "w0"): 1, ("teardown", "w0"): 1}
        both.workers.append(await start_worker(both.address, name="late", dashboard_address=":0"))
        assert ("setup", "late") not in runs


async def test_packages_are_installed_once_on_each_worker_and_each_scheduler_that_leads() -> None:
    async with pair() as both:
        await both.client.register_plugin(InstallPlugin(install, restart_workers=False))
        assert runs["installed"] == 3  # two workers, one scheduler
        await both.kill_leader()
        leader = await both.take_over()
        await eventually(lambda: runs["installed"] == 4)  # the new scheduler
        assert any(name.startswith("InstallPlugin") for name in leader.plugins)
        both.workers.append(await start_worker(both.address, name="late", dashboard_address=":0"))
        assert await both.client.submit(int) == 0
        assert runs["installed"] == 5


class Waiting(WorkerPlugin):  # type: ignore[misc]
    """Is set up until the test says so."""

    name = "waiting"

    async def setup(self, worker: Any) -> None:
        runs["setup", worker.name] += 1
        await eventually(gate.is_set)


@every_moment
async def test_a_plugin_that_is_being_set_up_when_the_leader_dies_is_set_up_once(
    lost: bool,
) -> None:
    """The next leader asks for it once more: the client does, or the ledger."""
    async with pair(1) as both:
        registering = asyncio.ensure_future(both.client.register_plugin(Waiting()))
        await eventually(lambda: runs["setup", "w0"] == 1)
        if not lost:
            await both.leader._of_workers.record("waiting")
        await both.kill_leader()
        leader = await both.take_over()
        if not lost:
            assert "waiting" in leader.worker_plugins
        await eventually(lambda: "waiting" in leader.worker_plugins)
        gate.set()
        await registering
        assert dict(runs) == {("setup", "w0"): 1}


async def test_a_worker_that_joins_as_its_leader_dies_sets_a_plugin_up_once() -> None:
    async with pair(0) as both:
        await both.client.register_plugin(Waiting())
        starting = asyncio.ensure_future(
            start_worker(both.address, name="late", dashboard_address=":0")
        )
        await eventually(lambda: runs["setup", "late"] == 1)
        await both.kill_leader()
        leader = await both.take_over()
        await eventually(lambda: len(leader.workers) == 1)
        gate.set()
        both.workers.append(await starting)
        assert await both.client.submit(int) == 0
        assert dict(runs) == {("setup", "late"): 1}


async def test_a_plugin_removed_while_it_was_set_up_is_set_up_when_it_is_added_again() -> None:
    async with pair(1) as both:
        registering = asyncio.ensure_future(both.client.register_plugin(Waiting()))
        await eventually(lambda: runs["setup", "w0"] == 1)
        await both.client.unregister_worker_plugin("waiting")
        gate.set()
        await registering
        assert "waiting" not in both.workers[0].plugins
        await both.client.register_plugin(Waiting())
        assert "waiting" in both.workers[0].plugins
        assert dict(runs) == {("setup", "w0"): 2}


class Fails(WorkerPlugin):  # type: ignore[misc]
    name = "fails"

    def setup(self, worker: Any) -> None:
        raise ZeroDivisionError(worker.name)


@every_moment
async def test_why_a_plugin_cannot_be_set_up_is_told_after_a_failover_as_before_it(
    lost: bool,
) -> None:
    async with pair(1) as both:
        with pytest.raises(ZeroDivisionError, match="w0"):
            await interrupted(both, lambda: both.client.register_plugin(Fails()), lost)
        with pytest.raises(ZeroDivisionError, match="w0"):
            await both.client.register_plugin(Fails())


class RestartsWorkers(NannyPlugin):  # type: ignore[misc]
    name = "restarts"
    restart = True

    def setup(self, nanny: Any) -> None:
        runs["set up"] += 1


async def test_a_nanny_restarts_its_worker_once_though_the_registration_is_repeated() -> None:
    """The leader dies when the nanny has done what it asked for, and nobody knows of that."""
    async with (
        pair(0) as both,
        Nanny(both.address, nthreads=1, dashboard_address=":0") as nanny,
    ):
        restart, broadcast, done = nanny.restart, both.leader.broadcast, asyncio.Event()

        async def count_restart(**kwargs: Any) -> Any:
            runs["restarted"] += 1
            return await restart(**kwargs)

        async def broadcast_in_vain(*args: Any, **kwargs: Any) -> Any:
            await broadcast(*args, **kwargs)
            done.set()
            await asyncio.Event().wait()

        nanny.restart = count_restart
        both.leader.broadcast = broadcast_in_vain
        registering = asyncio.ensure_future(both.client.register_plugin(RestartsWorkers()))
        await done.wait()
        await both.kill_leader()
        await both.take_over()
        await registering
        assert dict(runs) == {"set up": 1, "restarted": 1}
        await both.client.unregister_worker_plugin("restarts", nanny=True)
        await both.client.register_plugin(RestartsWorkers())
        assert runs["restarted"] == 2


async def test_what_workers_log_is_forwarded_under_the_next_leader_once() -> None:
    async with pair(1) as both:
        await both.client.forward_logging("tests.said")
        plugins = dict(both.leader.worker_plugins)
        await both.kill_leader()
        leader = await both.take_over()
        assert dict(leader.worker_plugins) == plugins
        events: list[Any] = []
        topics = [t for t in both.client._event_handlers if "log" in t]
        for topic in topics:
            both.client._event_handlers[topic] = events.append
        await both.client.submit(say, "hello")
        await eventually(lambda: bool(events))
        assert [event[1]["msg"] for event in events] == ["hello"]
