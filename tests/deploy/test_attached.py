"""A cluster that is attached to a cell follows the leader, and so does ``Adaptive``."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dask
import msgspec
import pytest
from distributed.core import Status
from distributed.deploy.adaptive import Adaptive

from ha_scheduler import HACluster
from ha_scheduler.comm.address import parse_endpoint
from ha_scheduler.comm.directory import View
from ha_scheduler.engine.workers import registration as engine_workers
from ha_scheduler.protocol.client import Welcome
from ha_scheduler.worker.worker import Worker
from tests.engine.conftest import Pair, eventually, pair

runs: Counter[Any] = Counter()
gate = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    runs.clear()
    gate.clear()


def blocked(number: int) -> int:
    runs[number] += 1
    gate.wait(30)
    return number


@asynccontextmanager
async def attached(both: Pair) -> AsyncIterator[HACluster]:
    spec = {"cls": Worker, "options": {"nthreads": 1, "dashboard_address": ":0"}}
    async with HACluster(both.address, worker=spec, asynchronous=True) as cluster:
        yield cluster


def workers_of(cluster: HACluster) -> set[str]:
    return {info["name"] for info in cluster.scheduler_info["workers"].values()}


async def has(cluster: HACluster, n: int) -> None:
    await eventually(lambda: len(workers_of(cluster)) == n and len(cluster.requested) == n)


def tell(cluster: HACluster, welcome: Welcome, address: str) -> None:
    """As the watch of a cell does."""
    view = View.from_welcome(welcome)
    directory = cluster._follower.directory
    assert directory is not None
    directory.observe(dataclasses.replace(view, leader_address=parse_endpoint(address)))


def test_only_a_cell_can_be_attached_to() -> None:
    with pytest.raises(ValueError, match="names no cell"):
        HACluster("tcp://127.0.0.1:8786")


async def test_it_sees_the_workers_of_the_next_leader_come_and_go() -> None:
    async with pair(1) as both, attached(both) as cluster:
        cluster.scale(2)
        await eventually(lambda: len(workers_of(cluster)) == 3)
        await both.kill_leader()
        leader = await both.take_over()
        await eventually(lambda: cluster.scheduler_info["address"] == leader.address)
        assert len(workers_of(cluster)) == 3
        cluster.scale(1)
        await eventually(lambda: len(workers_of(cluster)) == 2)
        assert cluster.plan == cluster.requested
        assert cluster.requested < cluster.observed == {"w0", *cluster.requested}


async def test_it_hears_of_a_worker_that_went_while_nobody_led() -> None:
    async with pair(0) as both, attached(both) as cluster:
        removed = []
        update = cluster._update_worker_status
        cluster._update_worker_status = lambda op, msg: (
            removed.append(msg) if op == "remove" else None,
            update(op, msg),
        )
        cluster.scale(2)
        await has(cluster, 2)
        await both.kill_leader()
        lost = cluster.workers[min(cluster.workers)]
        await lost.close()
        with dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}):
            leader = await both.take_over()
            await eventually(lambda: cluster.scheduler_info["address"] == leader.address)
        assert removed == [lost.address]
        assert cluster.observed == cluster.plan - {lost.name}
        await eventually(lambda: len(cluster.workers) == 1)
        await cluster
        await has(cluster, 2)  # as upstream: whoever looks next has it replaced


async def test_workers_that_were_asked_for_while_nobody_led_join_the_next_leader() -> None:
    async with pair(0) as both, attached(both) as cluster:
        await both.kill_leader()
        cluster.scale(2)
        assert len(cluster.plan) == 2
        await asyncio.sleep(0)
        leader = await both.take_over()
        await has(cluster, 2)
        assert {ws.name for ws in leader.workers.values()} == cluster.plan


async def test_a_cluster_can_be_closed_while_nobody_leads() -> None:
    async with pair(0) as both:
        async with attached(both) as cluster:
            cluster.scale(1)
            await has(cluster, 1)
            await both.kill_leader()
        assert cluster.status == Status.closed
        assert not cluster.workers
        await both.take_over()


async def test_a_leader_that_is_frozen_is_left_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_workers, "RETURN_SECONDS", 0.1)  # the frozen one, when it ends
    async with pair(1) as both, attached(both) as cluster:
        frozen = both.leader
        frozen._stop_listeners()
        subscription = cluster._watch_worker_status_comm
        frozen.recorder.flush()
        frozen.recorder = None
        leader = await both.take_over()
        welcome = msgspec.structs.replace(leader.welcome(), leader="other", addresses=())
        tell(cluster, welcome, leader.address)
        await eventually(lambda: cluster.scheduler_info["address"] == leader.address)
        assert subscription.closed()
        assert (await cluster.scheduler_comm.identity())["address"] == leader.address


async def test_a_subscription_that_is_not_answered_is_left_for_the_next_leader() -> None:
    """The next leader is told of while the cluster connects to another, and never again."""
    async with pair(1) as both, attached(both) as cluster:
        begun, silent = asyncio.Event(), asyncio.Event()
        live_comm = cluster.scheduler_comm.live_comm

        async def connect_to_a_silent_peer() -> Any:
            if not begun.is_set():
                begun.set()
                await silent.wait()
            return await live_comm()

        cluster.scheduler_comm.live_comm = connect_to_a_silent_peer
        await both.kill_leader()
        await begun.wait()
        leader = await both.take_over()
        welcome = msgspec.structs.replace(leader.welcome(), leader="other", addresses=())
        tell(cluster, welcome, leader.address)
        await eventually(lambda: cluster.scheduler_info["address"] == leader.address)


class Diary(Adaptive):
    """``Adaptive`` that says when it asks and what it does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.targets: list[int] = []
        self.errors = 0
        super().__init__(*args, **kwargs)

    async def adapt(self) -> None:
        try:
            await super().adapt()
        except Exception:
            self.errors += 1
            raise

    async def safe_target(self) -> int:
        target = await super().safe_target()
        self.targets.append(target)
        return target


@asynccontextmanager
async def adapting(cluster: HACluster, **kwargs: Any) -> AsyncIterator[Any]:
    adaptive = cluster.adapt(Adaptive=Diary, interval="20ms", wait_count=3, **kwargs)
    try:
        yield adaptive
    finally:
        adaptive.stop()


async def test_adaptive_goes_on_scaling_up_and_down_under_the_next_leader() -> None:
    async with (
        pair(0) as both,
        attached(both) as cluster,
        adapting(cluster, minimum=1, maximum=3) as adaptive,
    ):
        await has(cluster, 1)
        await both.kill_leader()
        futures = both.client.map(blocked, range(6))
        await both.take_over()
        await has(cluster, 3)
        await eventually(lambda: len(runs) == 3)
        gate.set()
        assert await both.client.gather(futures) == list(range(6))
        futures.clear()
        await has(cluster, 1)
        assert set(runs.values()) == {1}
        assert adaptive.errors == 0


async def test_no_worker_that_is_busy_is_closed_because_of_a_failover() -> None:
    async with (
        pair(0) as both,
        attached(both) as cluster,
        adapting(cluster, minimum=0, maximum=3) as adaptive,
    ):
        futures = both.client.map(blocked, range(3))
        await eventually(lambda: len(runs) == 3)
        before = set(cluster.workers)
        await both.kill_leader()
        asked = len(adaptive.targets)
        await both.take_over()
        await eventually(lambda: len(adaptive.targets) > asked + 10)
        assert set(cluster.workers) == before
        gate.set()
        assert await both.client.gather(futures) == [0, 1, 2]
        assert set(runs.values()) == {1}
        assert adaptive.errors == 0


async def test_workers_that_run_what_the_leader_has_yet_to_learn_of_are_not_closed() -> None:
    """A graph that did not commit is unknown until its client is back: its workers look idle."""
    async with (
        pair(0) as both,
        attached(both) as cluster,
    ):
        cluster.scale(2)
        await has(cluster, 2)
        both.leader.recorder.flush()
        both.log.stall()
        futures = both.client.map(blocked, range(2))
        await eventually(lambda: len(runs) == 2)
        await both.kill_leader(lose_records=both.log.stalled)
        both.log.resume()
        back = asyncio.Event()
        ensure = both.client._ensure_connected

        async def late(timeout: float | None = None) -> None:
            await back.wait()
            await ensure(timeout=timeout)

        both.client._ensure_connected = late
        leader = await both.take_over()
        assert len(leader.workers) == 2
        assert not any(ws.processing for ws in leader.workers.values())
        async with adapting(cluster, minimum=0, maximum=2) as adaptive:
            await eventually(lambda: len(adaptive.targets) > 10)
            assert len(leader.workers) == 2
            back.set()
            gate.set()
            assert await both.client.gather(futures) == [0, 1]
            assert set(runs.values()) == {1}
            futures.clear()
            await has(cluster, 0)


async def test_a_retirement_that_a_failover_interrupts_takes_no_work_with_it() -> None:
    async with (
        pair(0) as both,
        attached(both) as cluster,
    ):
        cluster.scale(3)
        await has(cluster, 3)
        kept = await both.client.scatter(list(range(9)))
        began = asyncio.Event()
        both.leader.extensions["amm"].run_once = began.set  # no data moves
        async with adapting(cluster, minimum=1, maximum=3) as adaptive:
            await began.wait()
            await both.kill_leader()
            await both.take_over()
            await has(cluster, 1)
            assert await both.client.gather(kept) == list(range(9))
            assert adaptive.errors == 0
