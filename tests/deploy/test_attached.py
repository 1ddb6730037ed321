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
import distributed
import msgspec
import pytest
from distributed.core import Status
from distributed.deploy.adaptive import Adaptive
from distributed.deploy.spec import SpecCluster

from ha_scheduler import HACluster
from ha_scheduler.comm.address import parse_endpoint
from ha_scheduler.comm.directory import View
from ha_scheduler.deploy import attach
from ha_scheduler.engine.workers import registration as engine_workers
from ha_scheduler.protocol.client import Welcome
from ha_scheduler.worker.nanny import Nanny
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


# -- attach


class Launcher(SpecCluster):
    """A class of the kind that launchers have: it starts a scheduler of its own."""

    def __init__(self, flavour: str, **kwargs: Any) -> None:
        self.flavour = flavour
        options = {"nthreads": 1, "dashboard_address": ":0"}
        super().__init__(
            scheduler={"cls": distributed.Scheduler, "options": {"dashboard_address": ":0"}},
            worker={"cls": distributed.Worker, "options": options},
            shutdown_scheduler=True,
            **kwargs,
        )

    async def _start(self) -> None:
        self.scheduler_spec = {"cls": distributed.Scheduler}
        await super()._start()


async def test_any_launcher_is_attached_to_a_cell_and_ends_nothing_but_its_own() -> None:
    async with pair(1) as both:
        async with attach(Launcher)(both.address, "vanilla", asynchronous=True) as cluster:
            assert cluster.flavour == "vanilla"
            assert cluster.shutdown_scheduler is False
            cluster.scale(1)
            await has_own(cluster, 1)
            await eventually(lambda: bool(cluster.workers))
            assert {type(worker) for worker in cluster.workers.values()} == {Worker}
            await both.kill_leader()
            leader = await both.take_over()
            await eventually(lambda: cluster.scheduler_info["address"] == leader.address)
        assert [ws.name for ws in leader.workers.values()] == ["w0"]
        assert await both.client.submit(int, 3) == 3


async def has_own(cluster: Any, n: int) -> None:
    await eventually(lambda: len(cluster.plan & cluster.observed) == n)


@pytest.mark.parametrize("cls", [distributed.LocalCluster, Launcher])
def test_what_is_attached_wants_the_address_of_a_cell(cls: type) -> None:
    with pytest.raises(ValueError, match="names no cell"):
        attach(cls)("tcp://127.0.0.1:8786", "vanilla")
    with pytest.raises(ValueError, match="names no cell"):
        attach(cls)(4)


def test_only_a_spec_cluster_can_be_attached() -> None:
    with pytest.raises(TypeError, match="SpecCluster"):
        attach(distributed.Client)
    assert attach(HACluster) is HACluster


async def test_what_a_worker_holds_is_handed_over_when_its_cluster_closes() -> None:
    async with pair(1) as both:
        async with attached(both) as cluster:
            cluster.scale(1)
            await has_own(cluster, 1)
            (name,) = cluster.plan
            future = both.client.submit(
                blocked_once, 1, workers=[name], allow_other_workers=True, key="held"
            )
            assert await future == 1
        assert await future == 1
        assert runs["held"] == 1, "it was not computed again"


def blocked_once(number: int) -> int:
    runs["held"] += 1
    return number


async def test_two_adaptive_clusters_of_a_cell_close_only_their_own_workers() -> None:
    async with pair(0) as both, attached(both) as one, attached(both) as other:
        other.scale(2)
        await has_own(other, 2)
        adaptive = one.adapt(minimum=0, maximum=2, interval="20ms", wait_count=2)
        futures = both.client.map(blocked, range(8))
        await has_own(one, 2)
        gate.set()
        assert await both.client.gather(futures) == list(range(8))
        futures.clear()
        await eventually(lambda: not one.plan and not one.workers)
        await asyncio.sleep(0.1)  # some more rounds of it
        adaptive.stop()
        assert len(other.plan & other.observed) == 2


@pytest.mark.parametrize("protocol", ["ha://", "tcp://"])
async def test_a_nanny_that_names_its_protocol_is_ours(protocol: str) -> None:
    async with pair(0) as both:
        options = {"nthreads": 1, "host": "127.0.0.1", "protocol": protocol}
        spec = {"n": {"cls": distributed.Nanny, "options": options}}
        async with HACluster(both.address, workers=spec, asynchronous=True) as cluster:
            (nanny,) = cluster.workers.values()
            assert type(nanny) is Nanny
            assert nanny.worker_address.startswith("tcp://127.0.0.1:")
            assert await both.client.run(_kind) == {nanny.worker_address: Worker.__module__}


def _kind(dask_worker: Any) -> str:
    return type(dask_worker).__module__
