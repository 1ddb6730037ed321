"""A new leader adopts what workers hold and run: nothing is lost, nothing finished runs twice."""

from __future__ import annotations

import operator
import threading
from typing import Any

import pytest
from distributed import get_client, worker_client
from distributed.comm import connect
from distributed.protocol.pickle import dumps, loads

from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.ledger.records import Erred
from ha_scheduler.worker import report
from ha_scheduler.worker.link import Phase
from tests.engine.conftest import end, eventually, pair, rebuild
from tests.engine.counted import begin, blocked, gate, runs, work


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


def fail(number: int) -> None:
    runs[number] += 1
    raise KeyError(number)


def parent() -> int:
    client = get_client()
    runs["parent"] += 1
    children = client.map(blocked, range(2))
    return sum(client.gather(children))


def parent_by_worker_client() -> int:
    with worker_client() as client:
        runs["parent"] += 1
        children = client.map(blocked, range(2))
        return sum(client.gather(children))


async def test_results_stay_and_futures_stay_valid() -> None:
    async with pair() as both:
        futures = both.client.map(work, range(20))
        await both.client.gather(futures)
        await both.kill_leader()
        leader = await both.take_over()
        assert await both.client.gather(futures) == list(range(20))
        assert set(runs.values()) == {1}
        leader.validate_state()


async def test_running_tasks_go_on_under_their_run_id() -> None:
    async with pair() as both:
        futures = both.client.map(blocked, range(6))
        total = both.client.submit(sum, futures)
        await eventually(lambda: len(runs) == 2)
        await both.kill_leader()
        leader = await both.take_over()
        running = [ts for ts in leader.tasks.values() if ts.run_id and ts.run_id < 2 << 32]
        assert len(running) >= 2
        gate.set()
        assert await total == sum(range(6))
        assert set(runs.values()) == {1}
        leader.validate_state()


async def test_a_task_that_finishes_during_the_outage_is_not_run_again() -> None:
    async with pair() as both:
        futures = both.client.map(blocked, range(2))
        await eventually(lambda: len(runs) == 2)
        await both.kill_leader()
        gate.set()
        await eventually(
            lambda: sum(len(worker.data) for worker in both.workers) == 2,
        )
        await both.take_over()
        assert await both.client.gather(futures) == [0, 1]
        assert set(runs.values()) == {1}


async def test_a_graph_that_never_committed_is_resubmitted_and_finds_its_tasks_running() -> None:
    async with pair() as both:
        before = both.client.submit(operator.add, 1, 1)
        await before
        both.leader.recorder.flush()
        committed = len(both.log.records)
        both.log.propose = lambda data, on_commit: None  # type: ignore[method-assign]
        futures = both.client.map(blocked, range(2))
        total = both.client.submit(sum, futures)
        await eventually(lambda: len(runs) == 2)
        del both.log.propose
        await both.kill_leader()
        assert len(both.log.records) == committed
        gate.set()
        leader = await both.take_over()
        assert await total == 1
        assert await before == 2
        assert set(runs.values()) == {1}
        leader.validate_state()


async def test_erred_futures_stay_erred_without_another_run() -> None:
    async with pair() as both:
        future = both.client.submit(fail, 1)
        dependent = both.client.submit(work, future)
        assert isinstance(await dependent.exception(), KeyError)
        await both.kill_leader()
        leader = await both.take_over()
        later = both.client.submit(operator.add, future, 1)
        assert isinstance(await later.exception(), KeyError)
        assert isinstance(await future.exception(), KeyError)
        assert runs[1] == 1
        leader.validate_state()


async def test_an_error_that_the_leader_had_not_written_down_is_not_found_out_again() -> None:
    async with pair() as both:
        future = both.client.submit(fail, 1)
        await future.exception()
        await eventually(lambda: any(isinstance(r, Erred) for r in both.log.records))
        await both.kill_leader()
        both.log.records[:] = [r for r in both.log.records if not isinstance(r, Erred)]
        leader = await both.take_over()
        assert isinstance(await future.exception(), KeyError)
        assert runs[1] == 1
        assert any(isinstance(record, Erred) for record in both.log.records)
        leader.validate_state()


async def test_of_an_error_what_a_newer_release_says_besides_is_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error_of = report._error

    def of_tomorrow(task: Any) -> bytes:
        return bytes(dumps({**loads(error_of(task)), "notes": "of tomorrow"}))

    monkeypatch.setattr(report, "_error", of_tomorrow)
    async with pair() as both:
        future = both.client.submit(fail, 1)
        await future.exception()
        await both.kill_leader()
        both.log.records[:] = [r for r in both.log.records if not isinstance(r, Erred)]
        await both.take_over()
        assert isinstance(await future.exception(), KeyError)
        assert runs[1] == 1


async def test_work_submitted_during_the_outage_goes_through() -> None:
    async with pair() as both:
        one = both.client.submit(work, 1)
        await one
        await both.kill_leader()
        futures = both.client.map(work, range(10, 20))
        total = both.client.submit(sum, [one, *futures])
        await both.take_over()
        assert await total == 1 + sum(range(10, 20))
        assert set(runs.values()) == {1}


async def test_a_worker_that_died_with_the_leader_has_its_results_computed_again() -> None:
    async with pair() as both:
        futures = both.client.map(work, range(10))
        await both.client.gather(futures)
        await both.kill_leader()
        lost = both.workers.pop()
        held = len(lost.data)
        assert held
        await lost.close()
        leader = await both.take_over()
        assert await both.client.gather(futures) == list(range(10))
        assert sum(runs.values()) == 10 + held
        leader.validate_state()


async def test_a_client_inside_a_task_outlives_the_leader() -> None:
    async with pair(3) as both:
        future = both.client.submit(parent)
        await eventually(lambda: len(runs) == 3)
        await both.kill_leader()
        await both.take_over()
        gate.set()
        assert await future == 1
        assert set(runs.values()) == {1}


async def test_a_worker_client_inside_a_task_outlives_the_leader() -> None:
    async with pair(3) as both:
        future = both.client.submit(parent_by_worker_client)
        await eventually(lambda: len(runs) == 3)
        await both.kill_leader()
        await both.take_over()
        gate.set()
        assert await future == 1
        assert set(runs.values()) == {1}


async def test_two_takeovers_in_a_row_change_nothing() -> None:
    async with pair() as both:
        futures = both.client.map(work, range(5))
        await both.client.gather(futures)
        await both.kill_leader()
        await both.take_over()
        more = both.client.map(work, range(5, 10))
        await both.client.gather(more)
        await both.kill_leader()
        both.ports.reverse()
        follower = both._scheduler(1)
        for record in both.log.records:
            follower.replay.apply(record)
        await follower.activate(3, both.log, both._mark)
        await follower.recovery.opened()
        both.leader, both.former = follower, both.leader
        assert await both.client.gather(futures + more) == list(range(10))
        assert set(runs.values()) == {1}


async def test_a_worker_that_only_lost_its_connection_keeps_its_results_and_its_runs() -> None:
    async with pair() as both:
        done = both.client.map(work, range(6))
        await both.client.gather(done)
        running = both.client.map(blocked, range(10, 14))
        await eventually(lambda: len(runs) == 8)
        streams = [worker.batched_stream for worker in both.workers]
        for stream in streams:
            stream.comm.abort()
        await eventually(lambda: all(w.batched_stream not in streams for w in both.workers))
        await eventually(lambda: all(w._ha.phase is Phase.UP for w in both.workers))
        gate.set()
        assert await both.client.gather(done + running) == [*range(6), *range(10, 14)]
        assert set(runs.values()) == {1}
        both.leader.validate_state()


async def test_a_graph_that_cannot_be_made_into_tasks_does_not_stop_its_followers() -> None:
    async with pair() as both:
        bad = both.client.submit(work, 1, priority="high")
        assert isinstance(await bad.exception(), TypeError)
        good = both.client.submit(work, 2)
        await good
        await both.kill_leader()
        await both.take_over()
        assert await good == 2
        await end(rebuild(both.log.records))


async def test_an_error_of_a_former_run_does_not_befall_a_later_one() -> None:
    async with pair(1) as both:
        futures = both.client.get(failing_graph(), "top", sync=False)
        assert isinstance(await futures.exception(), KeyError)
        futures.release()
        await eventually(lambda: not both.leader.tasks)
        mended.set()
        again = both.client.get(failing_graph(), "top", sync=False)
        await eventually(lambda: runs["low"] == 2)
        await both.kill_leader()
        await both.take_over()
        gate.set()
        assert await again == 1
        mended.clear()


mended = threading.Event()


def low() -> int:
    runs["low"] += 1
    if not mended.is_set():
        raise KeyError("not yet")
    gate.wait(30)
    return 1


def failing_graph() -> dict[str, Any]:
    return {"low": (low,), "top": (work, "low")}


class Switch:
    """A lease that a test holds."""

    def __init__(self) -> None:
        self.on = False

    def valid(self) -> bool:
        return self.on


async def test_a_client_that_vanished_while_it_registered_can_register_again() -> None:
    async with pair() as both:
        leader = both.leader
        leader.lease = lease = Switch()
        message = {"op": "register-client", "client": "Client-x", "reply": False}
        first = await connect(leader.address)
        await first.write({**message, "versions": {}})
        await eventually(lambda: list(leader._comms.values()).count("register-client") == 2)
        first.abort()
        second = await connect(leader.address)
        await second.write({**message, "versions": {}})
        lease.on = True
        (answer,) = await second.read()
        assert answer["op"] == "stream-start"
        second.abort()
        await eventually(lambda: not leader._served.keys() - {both.client.id})


async def test_a_worker_that_died_with_the_leader_is_not_awaited() -> None:
    async with pair() as both:
        future = both.client.submit(work, 1)
        await future
        (nobody,) = free_ports("127.0.0.1", 1)
        dead = both.leader._worker_rows.set(f"tcp://127.0.0.1:{nobody}", "x")
        both.leader.transactions.note(dead)
        await both.kill_leader()
        await both.take_over(window_seconds=60)
        assert both.marks["workers_back"] == {"reported": 2, "missing": 0}
        assert await future == 1


async def test_a_task_that_wished_for_a_worker_that_is_gone_runs_elsewhere() -> None:
    async with pair() as both:
        wished, _ = both.workers
        future = both.client.submit(work, 1, workers=[wished.name], allow_other_workers=True)
        await future
        await both.kill_leader()
        await wished.close()
        await both.take_over()
        assert await future.result() == 1
        assert runs == {1: 2}
