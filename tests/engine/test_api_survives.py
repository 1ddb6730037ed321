"""The public API across a failover, where no other test has looked at it."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import dask
import distributed
import pytest
from distributed import as_completed, rejoin, secede, wait

from client_replay import Client
from ha_scheduler.worker.link import Phase
from tests.engine.conftest import Pair, eventually, pair, start_worker
from tests.engine.counted import begin, blocked, gate, runs, work


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


def fail(number: int) -> int:
    runs["failed"] += 1
    raise ZeroDivisionError(number)


async def fail_over(both: Pair) -> None:
    await both.kill_leader()
    await both.take_over()


# Futures


async def test_what_a_future_says_of_itself_is_the_same_under_the_next_leader() -> None:
    async with pair(3) as both:
        free, *busy = ([worker.address] for worker in both.workers)
        finished = both.client.submit(work, 1, key="finished", workers=free)
        failed = both.client.submit(fail, 1, key="failed", workers=free)
        cancelled = both.client.submit(blocked, 2, key="cancelled", workers=busy[0])
        pending = both.client.submit(blocked, 3, key="pending", workers=busy[1])
        await finished
        await failed.exception()
        await cancelled.cancel()
        futures = [finished, failed, cancelled, pending]
        said = [(f.key, f.status, f.done(), f.cancelled(), f.type) for f in futures]
        assert [status for _, status, *_ in said] == [
            *("finished", "error", "cancelled", "pending")
        ]
        await fail_over(both)
        await both.client.submit(
            work, 4, workers=free
        )  # all that the next leader had to say has come
        assert [(f.key, f.status, f.done(), f.cancelled(), f.type) for f in futures] == said
        assert isinstance(await failed.exception(), ZeroDivisionError)
        assert (await failed.traceback()).tb_frame.f_code.co_name == "fail"
        with pytest.raises(distributed.CancelledError):
            await cancelled
        gate.set()
        assert await pending == 3
        assert runs["failed"] == runs[1] == runs[3] == 1


async def test_callbacks_and_iterators_and_waits_hear_of_each_future_once() -> None:
    async with pair() as both:
        with both.client.as_current():
            early = both.client.submit(work, "early")
            await early
            futures = both.client.map(blocked, range(4), key="blocked")
            called: list[str] = []
            seen: list[str] = []

            async def iterate() -> None:
                async for future in as_completed([early, *futures]):
                    seen.append(future.key)  # noqa: PERF401 - each as it comes

            for future in [early, *futures]:
                future.add_done_callback(lambda done: called.append(done.key))
            iterating = asyncio.ensure_future(iterate())
            waiting = asyncio.ensure_future(wait(futures))
            hurried = asyncio.ensure_future(wait(futures, timeout="100ms"))
            await eventually(lambda: seen == called == [early.key])
            await both.kill_leader()
            with pytest.raises(TimeoutError):
                await hurried  # a timeout is the caller's, whoever leads
            await both.take_over()
            gate.set()
            assert len((await waiting).done) == 4
            await iterating
            await eventually(lambda: len(called) == 5)
        keys = sorted(future.key for future in [early, *futures])
        assert sorted(called) == sorted(seen) == keys
        assert set(runs.values()) == {1}


# Ways to submit


async def test_collections_are_computed_persisted_and_got_while_nobody_leads() -> None:
    def collection(name: str) -> Any:
        return dask.delayed(work, pure=True)(f"{name}")

    async with pair() as both:
        client = both.client
        before = client.compute(collection("before"))
        kept = client.persist(collection("kept"))
        await both.kill_leader()
        computed = client.compute(collection("computed"))
        persisted = client.persist(collection("persisted"))
        got = client.get({"key": (work, "got")}, "key", sync=False)
        assert {future.key for future in client.futures_of([kept, persisted])} <= set(
            client.futures
        )
        await both.take_over()
        assert await client.gather([before, computed, got]) == ["before", "computed", "got"]
        assert await client.compute(kept) == "kept"
        assert await client.compute(persisted) == "persisted"
        assert set(runs.values()) == {1}


async def test_an_executor_goes_on_under_the_next_leader() -> None:
    async with pair() as both:
        submitted = threading.Event()

        def program() -> list[Any]:
            with (
                Client(both.address, set_as_default=False) as client,
                client.get_executor(pure=False) as executor,
            ):
                first = executor.submit(blocked, 1)
                submitted.set()
                rest = executor.map(work, [2, 3])
                return [first.result(), *rest]

        running = asyncio.ensure_future(asyncio.to_thread(program))
        await eventually(lambda: submitted.is_set() and runs[1] == 1)
        await fail_over(both)
        gate.set()
        assert await running == [1, 2, 3]
        assert set(runs.values()) == {1}


# Inside tasks


def leave_and_come_back(number: int) -> int:
    runs["begun"] += 1
    secede()
    gate.wait(30)
    rejoin()
    return number


async def test_a_task_rejoins_while_nobody_leads() -> None:
    async with pair(1) as both:
        future = both.client.submit(leave_and_come_back, 1)
        await eventually(lambda: any(ws.long_running for ws in both.leader.workers.values()))
        await both.kill_leader()
        gate.set()
        await eventually(lambda: future.key in both.workers[0].data)
        await both.take_over()
        assert await future == 1
        assert runs["begun"] == 1


def speak(what: str) -> None:
    runs[what] += 1
    gate.wait(30)
    distributed.print(what)


async def test_what_a_task_prints_while_nobody_leads_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def printed_again() -> bool:
        return capsys.readouterr().out == "hello\n"

    async with pair(1) as both:
        future = both.client.submit(speak, "hello", key="x")
        await eventually(lambda: runs["hello"] == 1)
        await both.kill_leader()
        await eventually(lambda: both.workers[0]._ha.phase is Phase.DOWN)
        gate.set()
        await eventually(lambda: "x" in both.workers[0].data)
        assert capsys.readouterr().out == "hello\n"  # of the worker, which is in this process
        await both.take_over()
        await future
        await eventually(printed_again)


# The cluster


def note(dask_worker: Any) -> None:
    runs[dask_worker.name] += 1


async def test_a_worker_that_joins_later_runs_the_callbacks() -> None:
    async with pair(1) as both:
        await both.client.register_worker_callbacks(note)
        await fail_over(both)
        both.workers.append(await start_worker(both.address, name="late"))
        await eventually(lambda: runs["late"] == 1)
        assert runs == {"w0": 1, "late": 1}


async def test_a_scheduler_file_names_the_whole_cell(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    async with pair(1) as both:
        await both.client.submit(work, 1)
        await both.workers[0].heartbeat()
        await asyncio.to_thread(both.client.write_scheduler_file, str(path))
        assert json.loads(path.read_text())["address"] == both.address
        await fail_over(both)
        async with Client(
            scheduler_file=str(path), asynchronous=True, set_as_default=False
        ) as other:
            assert await other.submit(work, 2) == 2
