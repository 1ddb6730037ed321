"""Requests that are repeated on the next leader, and have the effect of one.

The moments: the request *arrived* (the leader dies before it does anything), and it was *done* (all
that it does is done, and nobody was told).
"""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Any

import pytest
from distributed import NannyPlugin, WorkerPlugin
from distributed.diagnostics.plugin import SchedulerPlugin

from tests.engine.conftest import eventually, pair
from tests.engine.interruptions import open_sessions

every_moment = pytest.mark.parametrize("moment", ["arrived", "done"])


def stop_at(leader: Any, op: str, moment: str) -> asyncio.Event:
    """The leader answers ``op`` no more. Returns what is set when it has come to the moment."""
    handle, reached = leader.handlers[op], asyncio.Event()

    @functools.wraps(handle)
    async def stop(*args: Any, **kwargs: Any) -> None:
        if moment == "done":
            await handle(*args, **kwargs)
        reached.set()
        await asyncio.Event().wait()

    leader.handlers[op] = stop
    return reached


# Data


@pytest.mark.parametrize("direct", [True, False])
async def test_a_scatter_that_was_answered_is_known_to_the_next_leader(direct: bool) -> None:
    async with pair() as both:
        both.log.stall()
        scattering = asyncio.ensure_future(both.client.scatter(5, direct=direct))
        await eventually(lambda: both.log.stalled > 0)
        for _ in range(20):  # an answer that does not wait for the commit would arrive
            await asyncio.sleep(0)
        await both.kill_leader(lose_records=both.log.stalled)
        both.log.resume()
        await both.take_over()
        future = await scattering
        assert await future == 5
        assert await both.client.submit(int, future) == 5


@every_moment
@pytest.mark.parametrize("direct", [True, False])
async def test_a_scatter_in_flight_is_made_by_the_next_leader(direct: bool, moment: str) -> None:
    async with pair() as both:
        op = "update_data" if direct else "scatter"
        reached = stop_at(both.leader, op, moment)
        scattering = asyncio.ensure_future(both.client.scatter({"x": 5}, direct=direct))
        await reached.wait()
        await both.kill_leader()
        leader = await both.take_over()
        (future,) = (await scattering).values()
        assert await future == 5
        assert leader.tasks["x"].who_has
        leader.validate_state()


# Workers


@every_moment
async def test_resources_that_were_set_while_nobody_led_are_known(moment: str) -> None:
    async with pair(1) as both:
        (worker,) = both.workers
        reached = stop_at(both.leader, "set_resources", moment)
        setting = asyncio.ensure_future(worker.set_resources(GPU=2))
        await reached.wait()
        await both.kill_leader()
        leader = await both.take_over()
        await setting
        assert leader.workers[worker.address].resources == {"GPU": 2}
        assert await both.client.submit(abs, -1, resources={"GPU": 2}) == 1
        leader.validate_state()


@every_moment
async def test_the_memory_manager_is_asked_again(moment: str) -> None:
    async with pair(1) as both:
        assert await both.client.amm.running()
        reached = stop_at(both.leader, "amm_handler", moment)
        stopping = asyncio.ensure_future(both.client.amm.stop())
        await reached.wait()
        await both.kill_leader()
        leader = await both.take_over()
        await stopping
        assert not leader.extensions["amm"].running


# Plugins


class OnTheWorker(WorkerPlugin):
    name = "counted"

    def setup(self, worker: Any) -> None:
        worker.extensions["counted"] = self


class OnTheScheduler(SchedulerPlugin):
    name = "counted"


class OnTheNanny(NannyPlugin):
    name = "counted"


KINDS = [(OnTheWorker, "worker"), (OnTheScheduler, "scheduler"), (OnTheNanny, "nanny")]


def registered(leader: Any, kind: str) -> bool:
    of_kind = {
        "worker": leader.worker_plugins,
        "nanny": leader.nanny_plugins,
        "scheduler": leader.plugins,
    }
    return "counted" in of_kind[kind]


@every_moment
@pytest.mark.filterwarnings("ignore:Scheduler already contains a plugin")
@pytest.mark.parametrize(("plugin", "kind"), KINDS)
async def test_a_plugin_registered_while_the_leader_died_is_there_once(
    plugin: type[Any], kind: str, moment: str
) -> None:
    async with pair(1) as both:
        reached = stop_at(both.leader, f"register_{kind}_plugin", moment)
        registering = asyncio.ensure_future(both.client.register_plugin(plugin()))
        await reached.wait()
        await both.kill_leader()
        leader = await both.take_over()
        await registering
        assert registered(leader, kind)
        if kind == "worker":
            assert isinstance(both.workers[0].extensions["counted"], OnTheWorker)


@pytest.mark.parametrize(("plugin", "kind"), KINDS)
async def test_a_registration_that_did_not_commit_is_made_by_the_next_leader(
    plugin: type[Any], kind: str
) -> None:
    async with pair(1) as both:
        await open_sessions(both)
        both.log.stall()
        registering = asyncio.ensure_future(both.client.register_plugin(plugin()))
        await eventually(lambda: registered(both.leader, kind) and both.log.stalled > 0)
        await both.kill_leader(lose_records=both.log.stalled)
        assert not registering.done()
        both.log.resume()
        leader = await both.take_over()
        await registering
        assert registered(leader, kind)
        assert "counted" in both.workers[0].plugins or kind != "worker"


started: list[int] = []  # the terms in which it was


class Started(SchedulerPlugin):
    name = "started"

    def start(self, scheduler: Any) -> None:
        started.append(scheduler.term)
        scheduler.set_metadata(["started", "last"], scheduler.term)


async def test_a_scheduler_plugin_whose_registration_is_repeated_is_started_once() -> None:
    started.clear()
    async with pair(1) as both:
        reached = stop_at(both.leader, "register_scheduler_plugin", "done")
        registering = asyncio.ensure_future(both.client.register_plugin(Started()))
        await reached.wait()
        await both.kill_leader()
        await both.take_over()
        await registering
        assert started == [1, 2]


@every_moment
async def test_a_sampler_of_memory_is_begun_and_ended_once(moment: str) -> None:
    async with pair(1) as both:
        rpc = both.client.scheduler
        reached = stop_at(both.leader, "memory_sampler_start", moment)
        how = {"client": both.client.id, "measure": "process", "interval": 60}
        starting = asyncio.ensure_future(rpc.memory_sampler_start(**how))
        await reached.wait()
        await both.kill_leader()
        leader = await both.take_over()
        key = await starting
        assert list(leader.extensions["memory_sampler"].recorded) == [key]
        assert len(leader.extensions["memory_sampler"].samples) == 1
        assert len(await rpc.memory_sampler_stop(key=key)) == 1
        assert not leader.extensions["memory_sampler"].samples


@every_moment
async def test_what_was_sampled_is_told_by_the_next_leader(moment: str) -> None:
    async with pair(1) as both:
        rpc = both.client.scheduler
        how = {"client": both.client.id, "measure": "process", "interval": 60}
        key = await rpc.memory_sampler_start(**how)
        before = list(both.leader.extensions["memory_sampler"].samples[key])
        reached = stop_at(both.leader, "memory_sampler_stop", moment)
        stopping = asyncio.ensure_future(rpc.memory_sampler_stop(key=key))
        await reached.wait()
        await both.kill_leader()
        leader = await both.take_over()
        samples = [tuple(sample) for sample in await stopping]
        assert len(samples) == 1
        assert (samples == before) is (moment == "done")
        assert not leader.extensions["memory_sampler"].samples
        assert not leader.extensions["memory_sampler"].recorded


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize(("plugin", "kind"), KINDS)
async def test_a_plugin_whose_removal_was_interrupted_is_removed_once(
    plugin: type[Any], kind: str, lost: bool
) -> None:
    async with pair(1) as both:
        await both.client.register_plugin(plugin())
        await open_sessions(both)
        both.log.stall()
        unregister = getattr(both.client.scheduler, f"unregister_{kind}_plugin")
        removing = asyncio.ensure_future(unregister(name="counted"))
        await eventually(lambda: both.log.stalled > 0)
        await both.kill_leader(lose_records=both.log.stalled if lost else 0)
        both.log.resume()
        leader = await both.take_over()
        said = await removing  # by the next leader, if it did not commit
        assert not registered(leader, kind)
        if kind != "scheduler":
            assert {answer["status"] for answer in said.values()} <= {"OK"}
        if kind == "worker":
            (worker,) = both.workers
            await eventually(lambda: "counted" not in worker.plugins)


# Dumps


@every_moment
async def test_a_dump_is_written_by_the_next_leader(tmp_path: Path, moment: str) -> None:
    async with pair(1) as both:
        reached = stop_at(both.leader, "dump_cluster_state_to_url", moment)
        dumping = asyncio.ensure_future(
            both.client.dump_cluster_state(f"file://{tmp_path}/dump", format="yaml")
        )
        await reached.wait()
        await both.kill_leader()
        for written in tmp_path.iterdir():
            written.write_text("half of it")
        await both.take_over()
        await dumping
        (dump,) = tmp_path.iterdir()
        assert both.workers[0].address in dump.read_text()
