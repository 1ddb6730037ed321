"""``Client.retry``: once for each request, and never taken back."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.engine.conftest import eventually, pair
from tests.engine.counted import begin, gate, runs, work

mended = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()
    mended.clear()


def fail_until_mended(number: Any) -> Any:
    runs[number] += 1
    if not mended.is_set():
        raise KeyError(number)
    return number


def fail_then_block(number: Any) -> Any:
    runs[number] += 1
    if runs[number] == 1:
        raise KeyError(number)
    gate.wait(30)
    return number


def fail_each_time(number: Any) -> Any:
    runs[number] += 1
    raise KeyError(runs[number])


async def failed(future: Any) -> Any:
    """The future, when its first run has failed."""
    assert isinstance(await future.exception(), KeyError)
    return future


async def test_a_task_that_failed_again_while_its_client_was_away_has_failed_for_it() -> None:
    """The retry goes its own way to the next leader, where nobody tells of it on the stream."""
    async with pair(1) as both:
        client, back = both.client, asyncio.Event()
        await client.set_metadata("a call", "opens the session of calls")
        future = await failed(client.submit(fail_each_time, 1))
        connect = client._ensure_connected

        async def connect_late(**kwargs: Any) -> None:
            await back.wait()
            await connect(**kwargs)

        client._ensure_connected = connect_late
        await both.kill_leader()
        leader = await both.take_over()
        commit = both.log.hold()
        retry = asyncio.ensure_future(client.retry([future]))
        await eventually(lambda: runs[1] == 2 and leader.tasks[future.key].state == "erred")
        back.set()
        await eventually(lambda: client.futures[future.key].exception.args == (2,))
        commit()
        await retry
        assert (await future.exception()).args == (2,)


async def test_a_retry_whose_answer_was_lost_is_made_again_and_runs_once() -> None:
    async with pair(1) as both:
        future = await failed(both.client.submit(fail_then_block, 1))
        retry = asyncio.ensure_future(both.client.retry([future]))
        await eventually(lambda: runs[1] == 2)
        await both.kill_leader(lose_records=1)
        await both.take_over()
        await retry
        gate.set()
        assert await future == 1
        assert runs[1] == 2


async def test_a_retry_that_was_answered_is_not_taken_back() -> None:
    async with pair(1) as both:
        future = await failed(both.client.submit(fail_until_mended, 1))
        mended.set()
        both.leader.send_all = lambda *_, **__: None  # its worker never hears of the retry
        await both.client.retry([future])
        await both.kill_leader()
        await both.take_over()
        assert await future == 1
        assert runs[1] == 2


async def test_a_retry_is_answered_when_it_has_committed() -> None:
    async with pair(1) as both:
        future = await failed(both.client.submit(fail_until_mended, 1))
        both.log.stall()
        retry = asyncio.ensure_future(both.client.retry([future]))
        await eventually(lambda: both.log.stalled > 0)
        await asyncio.sleep(0.1)  # an answer that came too early would be there by then
        assert not retry.done()
        await both.kill_leader()
        both.log.resume()
        mended.set()
        await both.take_over()
        await retry
        assert await future == 1


async def test_a_retry_while_nobody_leads_waits_for_the_next_leader() -> None:
    async with pair(1) as both:
        future = await failed(both.client.submit(fail_until_mended, 1))
        await both.kill_leader()
        mended.set()
        retry = asyncio.ensure_future(both.client.retry([future]))
        await both.take_over()
        await retry
        assert await future == 1
        assert runs[1] == 2


async def test_a_retry_is_not_taken_back_by_an_engine_that_was_started_on_the_ledger() -> None:
    async with pair(1) as both:
        future = await failed(both.client.submit(fail_until_mended, 1))
        mended.set()
        both.leader.send_all = lambda *_, **__: None  # its worker never hears of the retry
        await both.client.retry([future])
        await both.kill_leader()
        await both.take_over(rebuilt=True)
        assert await future == 1
        assert runs[1] == 2


async def test_a_worker_that_lost_its_connection_does_not_take_a_retry_back() -> None:
    async with pair(2) as both:
        worker = both.workers[0]
        future = await failed(both.client.submit(fail_until_mended, 1, workers=[worker.address]))
        mended.set()
        leader = both.leader
        comm = leader.stream_comms[worker.address]
        comm.send = lambda *_: None  # it never hears of the retry
        leader.handle_worker_status_change("paused", worker.address, "test")
        await both.client.retry([future])
        assert leader.tasks[future.key].state == "no-worker"
        comm.abort()
        assert await future == 1
        assert runs[1] == 2


async def test_the_error_of_a_forgotten_task_does_not_befall_a_later_one_after_a_rebuild() -> None:
    """Its graph lives on by another key."""
    async with pair(1) as both:
        bad, kept = both.client.map(fail_until_mended, [1, 2], key=["bad", "kept"])
        await both.client.gather([bad, kept], errors="skip")
        bad.release()
        await eventually(lambda: "bad" not in both.leader.tasks)
        await eventually(lambda: "bad" not in both.workers[0].state.tasks)
        again = both.client.submit(work, 3, key="bad", workers=["nowhere"])
        await eventually(lambda: "bad" in both.leader.tasks)
        await both.kill_leader()
        leader = await both.take_over(rebuilt=True)
        assert leader.tasks["bad"].state == "no-worker"
        assert again.status == "pending"
        assert kept.status == "error"


async def test_an_error_of_a_former_task_on_its_worker_does_not_befall_a_later_one() -> None:
    async with pair(1) as both:
        bad = await failed(both.client.submit(fail_until_mended, 1, key="bad"))
        both.leader.send_all = lambda *_, **__: None  # its worker never hears of what follows
        bad.release()
        await eventually(lambda: "bad" not in both.leader.tasks)
        again = both.client.submit(work, 3, key="bad")
        await eventually(lambda: "bad" in both.leader.tasks)
        await both.kill_leader()
        await both.take_over()
        assert await again == 3
