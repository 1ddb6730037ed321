"""An engine that stands alone is used as ``distributed.Scheduler`` is."""

from __future__ import annotations

import operator
from typing import Any

import dask
import pytest
from distributed import span, versions, worker_client
from distributed.comm import CommClosedError
from distributed.comm.tcp import TCP
from distributed.diagnostics.plugin import SchedulerPlugin

from client_replay import Client
from client_replay.errors import OutcomeUnknown
from ha_scheduler.engine.extensions.shuffles import Shuffles
from ha_scheduler.engine.extensions.spans import Spans
from ha_scheduler.worker.worker import Worker
from tests.engine.conftest import eventually
from tests.standalone import Scheduler

QUIET: dict[str, Any] = {
    "host": "127.0.0.1",
    "dashboard": False,
    "dashboard_address": ":0",
    "validate": True,
}


async def test_it_starts_serves_and_closes_as_upstreams_does() -> None:
    async with (
        Scheduler(**QUIET) as scheduler,
        Worker(scheduler.address, nthreads=1, dashboard_address=":0") as worker,
        Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
    ):
        assert await client.submit(operator.add, 1, 2) == 3
        assert worker.scheduler.address == client.scheduler.address == scheduler.address
    assert scheduler.status.name == "closed"


async def test_it_has_the_extensions_that_upstream_would_choose_with_some_of_ours() -> None:
    with dask.config.set({"distributed.scheduler.work-stealing": False}):
        without = Scheduler(**QUIET)
    chosen = Scheduler(extensions={"mine": lambda scheduler: None}, **QUIET)
    usual = Scheduler(**QUIET)
    assert "stealing" not in without.extensions
    assert "stealing" in usual.extensions
    assert {"mine", "spans", "shuffle"} <= set(chosen.extensions)
    assert not {"amm", "stealing"} & set(chosen.extensions)
    assert isinstance(usual.extensions["spans"], Spans)
    assert isinstance(usual.extensions["shuffle"], Shuffles)


async def test_a_default_span_is_there_only_if_a_task_has_no_other() -> None:
    async with (
        Scheduler(**QUIET) as scheduler,
        Worker(scheduler.address, nthreads=1, dashboard_address=":0"),
        Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
    ):
        names = scheduler.extensions["spans"].spans_search_by_name
        with span("mine"):
            await client.submit(operator.neg, 1)
        assert set(names) == {("mine",)}
        await client.submit(operator.pos, 2)
        assert set(names) == {("mine",), ("default",)}


async def test_a_task_that_has_no_time_to_wait_for_a_client_gets_none() -> None:
    def impatient() -> None:
        with worker_client(timeout=0):
            pass

    async with (
        Scheduler(**QUIET) as scheduler,
        Worker(scheduler.address, nthreads=1, dashboard_address=":0"),
        Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
    ):
        with pytest.raises(OSError, match=r"[Tt]imed out"):
            await client.submit(impatient)


async def test_a_worker_that_starts_is_known_by_its_own_status() -> None:
    async with (
        Scheduler(**QUIET) as scheduler,
        Worker(scheduler.address, nthreads=1, dashboard_address=":0") as worker,
        Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
    ):
        await client.submit(operator.neg, 1)
        seen = [
            (event["prev-status"], event["status"])
            for _, event in scheduler.get_events(worker.address)
            if event["action"] == "worker-status-change"
        ]
        assert seen == [("init", "running")]
        assert isinstance(scheduler.stream_comms[worker.address].comm, TCP)


async def test_a_client_of_other_versions_is_warned() -> None:
    async with Scheduler(**QUIET) as scheduler:
        with pytest.MonkeyPatch.context() as patch:
            other = {"packages": {"dask": "0.1"}}
            patch.setattr(versions, "get_versions", lambda *args, **kwargs: other)
            with pytest.warns(versions.VersionMismatchWarning, match="dask"):
                client = await Client(scheduler.address, asynchronous=True, set_as_default=False)
        await client.close()


async def test_a_joining_client_is_an_event_and_a_plugin_that_fails_on_it_does_no_harm() -> None:
    class Plugin(SchedulerPlugin):
        def add_client(self, scheduler: Any, client: str) -> None:
            raise RuntimeError(client)

    async with (
        Scheduler(plugins=[Plugin()], **QUIET) as scheduler,
        Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
    ):
        assert [e["action"] for _, e in scheduler.get_events(client.id)] == ["add-client"]


async def test_the_code_shown_for_a_computation_is_the_users() -> None:
    async with (
        Scheduler(**QUIET) as scheduler,
        Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
    ):
        with dask.config.set({"distributed.diagnostics.computations.nframes": 1}):
            future = client.submit(operator.add, 1, 2)
        await eventually(lambda: bool(scheduler.computations))
        ((code,),) = scheduler.computations[-1].code
        assert "test_the_code_shown_for_a_computation" in code.code
        future.release()


async def test_a_scheduler_can_be_shut_down_by_its_client() -> None:
    async with Scheduler(**QUIET) as scheduler:
        client = await Client(scheduler.address, asynchronous=True, set_as_default=False)
        await client.shutdown()
        await scheduler.finished()
        assert issubclass(OutcomeUnknown, CommClosedError)
