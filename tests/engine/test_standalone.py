"""An engine that stands alone is used as ``distributed.Scheduler`` is."""

from __future__ import annotations

import operator
from typing import Any

import dask
from distributed.comm.tcp import TCP

from client_replay import Client
from ha_scheduler.engine.shuffles import Shuffles
from ha_scheduler.engine.spans import Spans
from ha_scheduler.engine.standalone import Scheduler
from ha_scheduler.worker.worker import Worker
from tests.engine.conftest import run

QUIET: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": ":0", "validate": True}


def test_it_starts_serves_and_closes_as_upstreams_does() -> None:
    async def test() -> None:
        async with (
            Scheduler(**QUIET) as scheduler,
            Worker(scheduler.address, nthreads=1, dashboard_address=":0") as worker,
            Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
        ):
            assert await client.submit(operator.add, 1, 2) == 3
            assert worker.scheduler.address == client.scheduler.address == scheduler.address
        assert scheduler.status.name == "closed"

    run(test)


def test_it_has_the_extensions_that_upstream_would_choose_with_two_of_ours() -> None:
    async def test() -> None:
        with dask.config.set({"distributed.scheduler.work-stealing": False}):
            without = Scheduler(**QUIET)
        chosen = Scheduler(extensions={"mine": lambda scheduler: None}, **QUIET)
        usual = Scheduler(**QUIET)
        assert "stealing" not in without.extensions
        assert "stealing" in usual.extensions
        assert set(chosen.extensions) == {"mine", "spans", "shuffle"}
        assert isinstance(usual.extensions["spans"], Spans)
        assert isinstance(usual.extensions["shuffle"], Shuffles)

    run(test)


def test_a_worker_that_starts_is_known_by_its_own_status() -> None:
    async def test() -> None:
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

    run(test)
