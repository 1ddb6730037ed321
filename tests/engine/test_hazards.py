"""Ways in which a change of leader and ``distributed`` do not go together, see docs/handlers.md."""

from __future__ import annotations

import asyncio
from typing import Any

import distributed
import pytest

import client_replay
from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.worker.nanny import Nanny
from ha_scheduler.worker.worker import Worker
from tests.engine.conftest import Pair, eventually, keep_away, pair
from tests.engine.counted import begin, blocked, gate, holders, on_each_worker, runs, work


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


async def recovering(both: Pair) -> Any:
    """The next leader, which waits for a worker that stays away."""
    leader = both._scheduler(1)
    leader.replay.caught_up()
    for record in both.log.records:
        leader.replay.apply(record)
    both.former, both.leader = both.leader, leader
    await leader.activate(2, both.log, both._mark, 30)
    await eventually(lambda: both.workers[1].address in leader.workers)
    assert not leader.recovery.is_open
    return leader


async def test_a_task_that_finishes_during_the_recovery_is_not_run_again() -> None:
    async with pair() as both:
        away, here = both.workers
        running = both.client.submit(blocked, 1, key="running", workers=[here.address])
        needs = both.client.submit(work, running, key="needs", workers=[away.address])
        await eventually(lambda: runs[1] == 1)
        free = keep_away(away)
        await both.kill_leader()
        leader = await recovering(both)
        gate.set()
        await eventually(lambda: "running" in here.data)
        assert leader.tasks["running"].state != "memory"
        free.set()
        await leader.recovery.opened()
        assert await both.client.gather([running, needs]) == [1, 1]
        assert runs[1] == 2  # "running" and "needs", each once
        leader.validate_state()


async def test_nothing_is_removed_or_stolen_before_the_recovery_is_over() -> None:
    async with pair() as both:
        away, here = both.workers
        futures = await on_each_worker(both)
        await both.client.replicate(futures)
        running = both.client.map(blocked, range(5), workers=[here.address], key="running")
        await eventually(lambda: len(here.state.tasks) == 7)
        free = keep_away(away)
        await both.kill_leader()
        leader = await recovering(both)
        leader.extensions["amm"].run_once()
        leader.extensions["stealing"].balance()
        free.set()
        await leader.recovery.opened()
        everywhere = {worker.address for worker in both.workers}
        assert holders(leader, "on0") == holders(leader, "on1") == everywhere
        assert set(both.workers[0].data) >= {"on0", "on1"}
        gate.set()
        await both.client.gather(running)
        assert set(runs.values()) == {1}


async def test_a_heartbeat_may_name_a_span_that_the_leader_never_knew() -> None:
    async with pair(1) as both:
        await both.client.submit(work, 1)
        (ws,) = both.leader.workers.values()
        metrics = {("execute", "a span of nobody", "work", "thread-cpu", "seconds"): 1.0}
        both.leader.extensions["spans"].heartbeat(ws, metrics)
        await both.workers[0].heartbeat()
        assert await both.client.submit(work, 2) == 2


async def test_a_graph_that_was_resubmitted_after_its_release_is_not_run_again() -> None:
    async with pair(1) as both:
        both.leader._acknowledge = lambda client, sequence: None  # the word was lost
        future = both.client.submit(work, 1, key="x")
        assert await future == 1
        future.release()
        await eventually(lambda: "x" not in both.leader.tasks)
        assert list(both.client._ha.journal.pending())
        await both.kill_leader()
        leader = await both.take_over()
        await eventually(lambda: not list(both.client._ha.journal.pending()))
        assert await both.client.submit(work, 2) == 2
        assert "x" not in leader.tasks
        assert runs[1] == 1


@pytest.mark.parametrize(
    ("ours", "upstreams"),
    [
        (Scheduler, distributed.Scheduler),
        (Worker, distributed.Worker),
        (Nanny, distributed.Nanny),
        (client_replay.Client, distributed.Client),
    ],
)
def test_our_classes_have_the_names_of_upstreams(ours: type, upstreams: type) -> None:
    """core.py:275: ``distributed.scheduler.blocked-handlers``; ids; directories of workers."""
    assert ours.__name__ == upstreams.__name__
    assert issubclass(ours, upstreams)


@pytest.mark.parametrize("whose", ["client", "worker"])
async def test_a_message_that_the_leader_cannot_handle_costs_the_connection_alone(
    whose: str,
) -> None:
    async with pair(1) as both:
        (worker,) = both.workers
        future = both.client.submit(work, 1, key="x")
        running = both.client.submit(blocked, 2, key="running")
        await future
        await eventually(lambda: runs[2] == 1)
        if whose == "client":
            broken = both.client.scheduler_comm.comm
            both.client.scheduler_comm.send({"op": "heartbeat-client", "of": "nothing"})
        else:
            broken = worker.batched_stream.comm
            worker.batched_stream.send({"op": "long-running", "of": "nothing"})
        await eventually(broken.closed)
        gate.set()
        assert await both.client.gather([future, running]) == [1, 2]
        assert runs == {1: 1, 2: 1}
        both.leader.validate_state()


async def test_the_dashboard_link_is_that_of_the_next_leader() -> None:
    async with pair(1) as both:

        def port(leader: Any) -> str:
            return f":{leader.http_server.port}/"

        link = await asyncio.to_thread(lambda: both.client.dashboard_link)
        assert port(both.leader) in link
        await both.kill_leader()
        leader = await both.take_over()
        link = await asyncio.to_thread(lambda: both.client.dashboard_link)
        assert port(leader) in link
