"""A follower that replays the leader's records has the leader's tasks, desires and priorities."""

from __future__ import annotations

import gc
import operator
from typing import Any

import dask
import dask.array as da
import pytest
from dask._task_spec import GraphNode
from distributed import Future, fire_and_forget
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.protocol.pickle import loads
from distributed.scheduler import TaskState

from ha_scheduler.engine import gc_pauses
from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.engine.stream.task_errors import ErrorTooLarge
from ha_scheduler.ledger import records
from tests.engine.conftest import KeptLog, end, eventually, follow, leading, pair, rebuild

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def intents(scheduler: Scheduler) -> dict[Any, Any]:
    """What must be equal on leader and follower."""
    return {
        key: (
            ts.priority,
            {d.key for d in ts.dependencies},
            {cs.client_key for cs in ts.who_wants or ()},
            ts.group.span_id,
            ts.retries,
            ts.actor,
        )
        for key, ts in scheduler.tasks.items()
    }


async def check_follower(leader: Scheduler, log: KeptLog) -> Scheduler:
    assert leader.recorder is not None
    leader.recorder.flush()
    await eventually(lambda: not len(leader.pending_releases))  # followers keep nothing
    follower = follow(log.records)
    assert intents(follower) == intents(leader)
    follower.validate_state()
    rebuilt = rebuild(log.records)
    assert intents(rebuilt) == intents(leader)
    rebuilt.validate_state()
    await end(rebuilt)
    return follower


async def test_a_follower_has_the_tasks_of_a_map_and_of_what_depends_on_it() -> None:
    log = KeptLog()
    async with leading(log) as (leader, client, _):
        futures = client.map(lambda x: x + 1, range(20))
        total = client.submit(sum, futures, priority=3, retries=2)
        assert await total == 210
        follower = await check_follower(leader, log)
        assert follower.tasks[total.key].state == "waiting"
        await end(follower)


async def test_no_collection_walks_the_tasks_of_a_large_graph_on_a_follower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    walked: list[Any] = []

    def look(phase: str, _: Any) -> None:
        if phase == "start":
            walked.extend(o for o in gc.get_objects() if isinstance(o, GraphNode | TaskState))

    log = KeptLog()
    async with leading(log) as (leader, client, _):
        futures = client.map(operator.neg, range(20))
        await eventually(lambda: len(leader.tasks) == 20)
        assert leader.recorder is not None
        leader.recorder.flush()
        thresholds = gc.get_threshold()
        monkeypatch.setattr(gc_pauses, "LARGE_TASKS", 20)
        gc.freeze()  # the leader's
        gc.callbacks.append(look)
        gc.set_threshold(1, 1, 1)
        try:
            follower = follow(log.records)
        finally:
            gc.set_threshold(*thresholds)
            gc.callbacks.remove(look)
            gc.unfreeze()
        assert len(follower.tasks) == len(futures)
        assert not walked
        await end(follower)


async def test_a_follower_forgets_what_was_released_and_its_graphs_are_retired() -> None:
    log = KeptLog()
    async with leading(log) as (leader, client, _):
        futures = client.map(lambda x: x + 1, range(5))
        await client.gather(futures)
        kept = client.submit(operator.add, futures[0], 1)
        await kept
        wants = leader.clients[client.id].wants_what
        futures.clear()
        await eventually(lambda: len(wants) == 1)
        follower = await check_follower(leader, log)
        await end(follower)
        kept.release()
        await eventually(lambda: not leader.tasks)
        follower = await check_follower(leader, log)
        assert not follower.tasks
        assert not len(leader.graphs)
        assert not len(follower.graphs)
        await end(follower)


async def test_array_and_delayed_graphs_replay_to_the_same_keys() -> None:
    log = KeptLog()
    async with leading(log) as (leader, client, _):
        array = da.random.default_rng(1).random((40, 40), chunks=(10, 10))
        persisted = client.persist((array + array.T).sum(axis=0))
        delayed = client.compute(dask.delayed(sum)([dask.delayed(abs)(-i) for i in range(4)]))
        assert await delayed == 6
        assert len(leader.tasks) > 4
        follower = await check_follower(leader, log)
        await end(follower)
        del persisted


async def test_an_error_reaches_the_follower_and_a_done_fire_and_forget_is_let_go() -> None:
    log = KeptLog()
    async with leading(log) as (leader, client, _):
        bad = client.submit(operator.truediv, 1, 0)
        await bad.exception()
        fire_and_forget(client.submit(operator.add, 1, 2))
        await eventually(lambda: len(leader.tasks) == 1)
        follower = await check_follower(leader, log)
        assert list(follower.replay.errors) == [bad.key]
        follower.adoption.adopt_recorded(follower.replay.errors, "test")
        assert follower.tasks[bad.key].state == "erred"
        follower.validate_state()
        await end(follower)


async def test_a_large_graph_travels_in_parts() -> None:
    log = KeptLog()
    async with leading(log) as (leader, client, _):
        future = client.submit(len, b"x" * 3_000_000)
        assert await future == 3_000_000
        kinds = [type(record) for record in log.records]
        assert kinds.count(records.BlobPart) >= 5
        follower = await check_follower(leader, log)
        await end(follower)


async def test_worker_plugins_and_metadata_are_committed_before_the_reply() -> None:
    from distributed.diagnostics.plugin import WorkerPlugin

    class Plugin(WorkerPlugin):
        name = "mine"

    log = KeptLog()
    async with leading(log) as (leader, client, _):
        await client.register_plugin(Plugin())
        await client.set_metadata(["a", "b"], 3)
        follower = await check_follower(leader, log)
        assert follower.worker_plugins == leader.worker_plugins
        assert follower.task_metadata == {"a": {"b": 3}}
        await end(follower)


async def test_workers_and_clients_are_expected_until_they_leave() -> None:
    log = KeptLog()
    async with leading(log) as (leader, client, workers):
        await client.submit(lambda: 1)
        follower = await check_follower(leader, log)
        assert set(follower.recorded_workers) == {w.address for w in workers}
        assert client.id in follower.clients
        await end(follower)
    leader.recorder.flush()
    follower = follow(log.records)
    assert not follower.recorded_workers
    assert client.id not in follower.clients
    await end(follower)


async def test_a_released_key_does_not_come_back_by_an_older_graph_that_mentions_it() -> None:
    log = KeptLog()
    async with leading(log) as (leader, client, _):
        shared, other = client.map(operator.neg, [1, 2], key=["shared", "other"])
        await client.gather([shared, other])
        graph = {"shared": (operator.neg, 1), "later": (operator.abs, "shared")}
        later = client.get(graph, "later", sync=False)
        assert await later == 1
        shared.release()
        later.release()
        await eventually(lambda: set(leader.tasks) == {"other"})
        follower = await check_follower(leader, log)
        await end(follower)


async def test_a_key_that_a_retired_graph_kept_alive_is_there_after_a_rebuild() -> None:
    log = KeptLog()
    async with leading(log) as (leader, client, _):
        base = client.submit(operator.add, 1, 1, key="base")
        held = client.submit(operator.neg, base, key="held")
        await held
        base.release()
        await eventually(lambda: len(leader.clients[client.id].wants_what) == 1)
        base = Future("base", client=client)
        later = client.submit(operator.abs, base, key="later")
        await later
        held.release()
        await eventually(lambda: "held" not in leader.tasks)
        follower = await check_follower(leader, log)
        await end(follower)


class Bulky(Exception):
    def __init__(self) -> None:
        super().__init__("short")
        self.array = bytes(3_000_000)


def fail_bulkily() -> None:
    raise Bulky


async def test_an_error_too_large_to_keep_survives_as_its_text() -> None:
    log = KeptLog()
    async with leading(log) as (leader, client, _):
        bad = client.submit(fail_bulkily)
        assert isinstance(await bad.exception(), Bulky)
        follower = await check_follower(leader, log)
        error = loads(follower.replay.errors[bad.key]["exception"])
        assert isinstance(error, ErrorTooLarge)
        assert "short" in str(error)
        await end(follower)


async def test_scattered_keys_take_as_many_records_as_they_need() -> None:
    log = KeptLog()
    async with leading(log) as (leader, client, _):
        data = {f"{'k' * 200}-{number}": number for number in range(3000)}
        await client.scatter(data)
        assert sum(isinstance(r, records.Scattered) for r in log.records) >= 2
        follower = follow(log.records)
        assert follower.scattered == leader.scattered
        await end(follower)


async def test_a_restart_leaves_nothing_on_a_follower() -> None:
    log = KeptLog()
    async with leading(log) as (leader, client, _):
        await client.set_metadata("note", 1)
        futures = client.map(operator.neg, range(5))
        await client.gather(futures)
        await client.restart(wait_for_workers=False)
        follower = await check_follower(leader, log)
        assert not follower.tasks
        assert "note" not in follower.task_metadata
        await end(follower)


class LetsGo(SchedulerPlugin):
    """Lets go of a key while the tasks of another graph are being made, and wants that graph's."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def update_graph(self, scheduler: Any, *, keys: set[Any], **kwargs: Any) -> None:
        self._scheduler.client_releases_keys(keys=["before"], client="fire-and-forget")
        self._scheduler.client_desires_keys(keys=list(keys), client="collector")


async def test_what_falls_into_the_making_of_a_graph_is_recorded() -> None:
    log = KeptLog()
    async with leading(log, workers=0) as (leader, client, _):
        before = client.submit(operator.neg, 1, key="before")
        await eventually(lambda: "before" in leader.tasks)
        leader.client_desires_keys(keys=["before"], client="fire-and-forget")
        leader.add_plugin(LetsGo(leader), name="lets-go")
        after = client.submit(operator.neg, 2, key="after")
        await eventually(lambda: "after" in leader.tasks)
        assert {cs.client_key for cs in leader.tasks["before"].who_wants} == {client.id}
        assert len(leader.tasks["after"].who_wants) == 2
        follower = await check_follower(leader, log)
        await end(follower)
        del before, after


async def test_a_graph_whose_client_left_while_it_was_made_is_refused() -> None:
    async with pair(0) as both:
        leader = both.leader
        find = leader._find_lost_dependencies

        def leave(*args: Any) -> Any:
            leader.remove_client(client=both.client.id)
            return find(*args)

        leader._find_lost_dependencies = leave
        future = both.client.submit(operator.neg, 1, key="late")
        await eventually(lambda: future.status == "error")
        assert "late" not in leader.tasks
        assert both.client.id not in leader.clients
        leader.recorder.flush()
        rebuilt = rebuild(both.log.records)
        assert not rebuilt.tasks
        assert both.client.id not in rebuilt.clients
        assert not rebuilt.sessions._answers
        await end(rebuilt)


async def test_a_rebuild_has_the_task_made_anew_and_not_the_one_of_its_name_before() -> None:
    """The former graph lives on by another key."""
    log = KeptLog()
    async with leading(log) as (leader, client, _):
        former, kept = client.map(operator.neg, [1, 2], key=["name", "kept"])
        above = client.submit(operator.abs, former, key="above")
        await client.gather([former, kept, above])
        former.release()
        above.release()
        await eventually(lambda: set(leader.tasks) == {"kept"})
        again = client.submit(operator.neg, 3, key="name", workers=["nowhere"], priority=7)
        kept_alive = client.submit(operator.abs, kept, key="top")
        await kept_alive
        follower = await check_follower(leader, log)
        rebuilt = rebuild(log.records)
        for engine in (follower, rebuilt):
            assert engine.tasks["name"].run_spec() == -3
            assert engine.tasks["name"].host_restrictions == {"nowhere"}
            await end(engine)
        del again
