"""P2P shuffles and their leaders: what goes on, and what starts anew because it cannot.

One event loop, real workers: the moments are chosen by gates in the tasks and by what the leader
has committed. ``tests/system/test_shuffles.py`` kills real processes.
"""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import secede

from ha_scheduler.engine.extensions.shuffles import MEMBERS, SHUFFLES
from ha_scheduler.ledger.records import Called, ValueDeleted, ValueSet
from ha_scheduler.worker.worker import Worker as HAWorker
from tests.engine import conftest
from tests.engine.conftest import Pair, eventually, keep_away

PARTS = 10
FREE = 6  # inputs that do not wait: enough for transfers to come between
FRAME = pd.DataFrame({"a": range(800), "b": [n % 17 for n in range(800)]})
SUMS = FRAME.groupby("b").a.sum().to_dict()

runs: collections.Counter[str] = collections.Counter()
inputs, outputs = threading.Event(), threading.Event()
PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def _closed_gates() -> Iterator[None]:
    runs.clear()
    inputs.clear()
    outputs.clear()
    # Else a run that is over tries for half a minute to reach the worker that has died.
    patience = {"distributed.p2p.comm.retry.count": 0, "distributed.comm.timeouts.connect": "5s"}
    with dask.config.set(patience):
        yield
    inputs.set()
    outputs.set()


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    async with conftest.pair() as both:
        both.dead = []  # type: ignore[attr-defined]
        try:
            yield both
        finally:
            inputs.set()
            outputs.set()
            for worker in both.dead:  # type: ignore[attr-defined]
                await worker.close(timeout=0)


async def die(both: Pair) -> Any:
    """The last worker falls silent in the middle of whatever it does, and nobody reaches it."""
    worker = both.workers.pop()
    both.dead.append(worker)  # type: ignore[attr-defined]
    await worker._ha.stop()
    worker._ha._drop()
    worker._stop_listeners()
    for comm in list(worker._comms):
        comm.abort()
    for callback in worker.periodic_callbacks.values():
        callback.stop()
    await worker.rpc.close()
    return worker


def read(frame: pd.DataFrame) -> pd.DataFrame:
    """An input partition. The first few do not wait for the gate."""
    runs["input"] += 1
    if runs["input"] > FREE:
        secede()  # so that transfers go on beside it
        assert inputs.wait(PATIENCE_S)
    return frame


def use(frame: pd.DataFrame) -> pd.DataFrame:
    """What is done with an output partition. It waits for the gate."""
    runs["output"] += 1
    assert outputs.wait(PATIENCE_S)
    return frame


def shuffled(outputs: int) -> Any:
    parts = dd.from_pandas(FRAME, npartitions=PARTS).map_partitions(read, meta=FRAME.iloc[:0])
    by_b = parts.shuffle("b", npartitions=outputs, shuffle_method="p2p")
    return by_b.map_partitions(use, meta=FRAME.iloc[:0]).groupby("b").a.sum()


def begin(both: Pair, outputs: int = 6) -> Any:
    return both.client.compute(shuffled(outputs))


async def sums_of(future: Any) -> dict[int, int]:
    return dict((await future).to_dict())


def active(both: Pair) -> dict[str, Any]:
    return dict(both.leader.extensions["shuffle"].active_shuffles)


def worker_runs(worker: Any) -> dict[str, Any]:
    return dict(worker.plugins["shuffle"].shuffle_runs._active_runs)


async def in_transfer(both: Pair) -> int:
    """Until a part of the inputs has been transferred and received; the id of the run."""
    await eventually(lambda: len(active(both)) == 1)
    await eventually(
        lambda: any(run.received for w in both.workers for run in worker_runs(w).values())
    )
    (state,) = active(both).values()
    return int(state.run_id)


async def in_unpack(both: Pair) -> int:
    """Until an output partition has been read; the id of the run."""
    inputs.set()
    await eventually(lambda: runs["output"] > 0)
    (state,) = active(both).values()
    return int(state.run_id)


async def fail_over(both: Pair, **how: Any) -> Any:
    await both.kill_leader(**how)
    return await both.take_over(window_seconds=PATIENCE_S)  # on a busy machine, too


async def test_a_shuffle_goes_on_in_the_middle_of_its_transfer() -> None:
    async with pair() as both:
        future = begin(both)
        run_id = await in_transfer(both)
        await fail_over(both)
        (state,) = active(both).values()
        assert state.run_id == run_id
        inputs.set()
        outputs.set()
        assert await sums_of(future) == SUMS
        assert runs["input"] == PARTS


async def test_a_shuffle_goes_on_in_the_middle_of_its_unpacking() -> None:
    async with pair() as both:
        future = begin(both)
        run_id = await in_unpack(both)
        leader = await fail_over(both)
        (state,) = active(both).values()
        assert state.run_id == run_id
        barrier = leader.tasks[f"shuffle-barrier-{state.id}"]
        assert not any(task._queueable for task in barrier.dependents)
        outputs.set()
        assert await sums_of(future) == SUMS
        assert runs["input"] == PARTS


@pytest.mark.parametrize("recorded", [True, False])
async def test_the_end_of_a_shuffle_is_no_reason_to_begin_it_anew(recorded: bool) -> None:
    """A failover between the last output partition and whoever reads the outputs."""
    async with pair() as both:
        if not recorded:  # the leader dies before the record of the end has committed
            both.leader.extensions["shuffle"]._forget = lambda shuffle_id: None
        parts = dd.from_pandas(FRAME, npartitions=PARTS).map_partitions(read, meta=FRAME.iloc[:0])
        outputs_of = both.client.persist(
            parts.shuffle("b", npartitions=6, shuffle_method="p2p", force=True)
        )
        inputs.set()
        await eventually(lambda: runs["input"] == PARTS and not active(both))
        leader = await fail_over(both)
        assert not leader.extensions["shuffle"].recorded
        assert await sums_of(both.client.compute(outputs_of.groupby("b").a.sum())) == SUMS
        assert runs["input"] == PARTS


@pytest.mark.parametrize("phase", [in_transfer, in_unpack])
async def test_a_shuffle_of_which_a_worker_died_with_the_leader_starts_anew(phase: Any) -> None:
    """Output tasks were restricted to that worker, and would wait for it for ever."""
    async with pair() as both:
        future = begin(both)
        run_id = await phase(both)
        await both.kill_leader()
        await die(both)
        leader = await both.take_over()
        inputs.set()
        outputs.set()
        assert await sums_of(future) == SUMS
        assert (
            min(
                run.run_id
                for runs in leader.extensions["shuffle"]._shuffles.values()
                for run in runs
                if run.run_id != run_id
            )
            >= leader.term << 32
        )
        assert not any(ts.worker_restrictions for ts in leader.tasks.values())


async def test_a_failed_transfer_is_the_users_only_if_nothing_was_lost_to_the_shuffle() -> None:
    text = "RuntimeError('P2P failed during transfer phase')"
    async with pair() as both:
        future = begin(both)
        await in_transfer(both)
        key = next(k for k in both.leader.tasks if "shuffle-transfer" in str(k))
        shuffles = both.leader.extensions["shuffle"]
        assert not shuffles.overtaken(both.leader.tasks[key], text, "test")
        leader = await fail_over(both)
        assert leader.extensions["shuffle"].overtaken(leader.tasks[key], text, "test")
        inputs.set()
        outputs.set()
        assert await sums_of(future) == SUMS


async def test_a_process_at_the_address_of_one_that_died_does_not_pass_for_it() -> None:
    """It has none of the shards, and the result would lack their rows."""
    async with pair() as both:
        future = begin(both)
        run_id = await in_transfer(both)
        await both.kill_leader()
        old = await die(both)
        address = old.address
        both.workers.append(
            await_later := HAWorker(
                both.address,
                nthreads=1,
                name=old.name,
                dashboard_address=":0",
                port=int(address.rsplit(":", 1)[1]),
            )
        )
        starting = asyncio.ensure_future(await_later.start())
        await both.take_over()
        await starting
        assert await_later.address == address
        assert run_id not in {state.run_id for state in active(both).values()}
        shuffles = both.leader.extensions["shuffle"]
        task = next(ts for k, ts in both.leader.tasks.items() if "shuffle-transfer" in str(k))
        text = "RuntimeError('P2P failed during transfer phase')"  # of who asked the old process
        assert shuffles.overtaken(task, text, "test")
        inputs.set()
        outputs.set()
        assert await sums_of(future) == SUMS


async def test_a_worker_that_joined_in_the_middle_of_a_shuffle_takes_part_in_it() -> None:
    """What it has yet to send is lost with it, so a later leader must know of it."""
    async with pair() as both:
        future = begin(both)
        run_id = await in_transfer(both)
        both.workers.append(
            await HAWorker(both.address, nthreads=1, name="w2", dashboard_address=":0")
        )
        late = both.workers[-1].address
        members = both.leader.extensions["shuffle"].members
        inputs.set()
        await eventually(lambda: any(late in m for m in members.values()))
        await both.kill_leader()
        await die(both)
        await both.take_over()
        assert run_id not in {state.run_id for state in active(both).values()}
        outputs.set()
        assert await sums_of(future) == SUMS


async def test_a_worker_that_comes_back_too_late_leaves_its_run() -> None:
    async with pair() as both:
        future = begin(both)
        run_id = await in_transfer(both)
        late = both.workers[0]
        free = keep_away(late)
        await both.kill_leader()
        leader = await both.take_over(window_seconds=0.1)
        assert late.address not in leader.workers
        assert run_id not in {state.run_id for state in active(both).values()}
        free.set()
        await eventually(lambda: late.address in leader.workers)
        await eventually(lambda: run_id not in {run.run_id for run in worker_runs(late).values()})
        inputs.set()
        outputs.set()
        assert await sums_of(future) == SUMS


async def test_a_run_that_is_over_is_ended_where_it_still_is() -> None:
    """The leader died after it had recorded the end and before a worker had heard of it."""
    async with pair() as both:
        future = begin(both)
        run_id = await in_transfer(both)
        (shuffle_id,) = active(both)
        both.leader.extensions["shuffle"]._forget(shuffle_id)
        await fail_over(both)
        assert not active(both)
        await eventually(
            lambda: (
                not any(
                    run.run_id == run_id for w in both.workers for run in worker_runs(w).values()
                )
            )
        )
        inputs.set()
        outputs.set()
        assert await sums_of(future) == SUMS


async def test_a_run_that_a_worker_was_told_to_end_does_not_go_on() -> None:
    """The leader died after it had told the worker and before the record of it had committed."""
    async with pair() as both:
        future = begin(both)
        run_id = await in_transfer(both)
        (shuffle_id,) = active(both)
        for worker in both.workers:
            worker.plugins["shuffle"].shuffle_fail(shuffle_id, run_id, "it was over")
        await fail_over(both)
        assert run_id not in {state.run_id for state in active(both).values()}
        inputs.set()
        outputs.set()
        assert await sums_of(future) == SUMS


async def test_a_complaint_of_a_run_that_is_over_starts_the_shuffle_anew() -> None:
    async with pair() as both:
        future = begin(both)
        run_id = await in_transfer(both)
        (shuffle_id,) = active(both)
        both.workers[0].plugins["shuffle"].shuffle_fail(shuffle_id, run_id, "it was over")
        inputs.set()
        outputs.set()
        assert await sums_of(future) == SUMS
        assert both.leader.extensions["shuffle"]._begun_anew.total() <= 1


async def test_what_a_shuffle_asks_of_the_log_does_not_grow_with_its_outputs() -> None:
    async with pair() as both:
        shuffles = both.leader.extensions["shuffle"]
        bind, bound = shuffles._set_restriction, []

        def count(ts: Any, worker: str) -> None:
            bound.append(ts.key)
            bind(ts, worker)

        shuffles._set_restriction = count
        inputs.set()
        outputs.set()
        for n_outputs in (5, 6, 7):  # each has its workers in another order
            assert await sums_of(begin(both, n_outputs)) == SUMS
            await eventually(lambda: not active(both))
        assert bound, "every output happened to start where its data is"
        values = [r for r in both.log.records if isinstance(r, ValueSet | ValueDeleted)]
        assert len([r for r in values if r.space in (SHUFFLES, MEMBERS)]) == 3 * 4
        assert not [r for r in both.log.records if isinstance(r, Called)]


async def test_no_run_is_kept_when_all_workers_start_anew() -> None:
    async with pair() as both:
        future = begin(both)
        await in_transfer(both)
        for change in both.leader.tables.void():
            both.leader.transactions.note(change)
        both.leader.extensions["shuffle"].restart(both.leader)
        assert not both.leader.extensions["shuffle"].recorded
        await fail_over(both)
        deleted = [r.space for r in both.log.records if isinstance(r, ValueDeleted)]
        assert set(deleted) >= {SHUFFLES, MEMBERS}
        inputs.set()
        outputs.set()
        assert await sums_of(future) == SUMS


async def test_a_merge_goes_on_with_both_of_its_shuffles() -> None:
    async with pair() as both:
        left = dd.from_pandas(FRAME, npartitions=PARTS).map_partitions(read, meta=FRAME.iloc[:0])
        other = pd.DataFrame({"b": range(17), "c": range(100, 117)})
        right = dd.from_pandas(other, npartitions=4)
        merged = left.merge(right, on="b", shuffle_method="p2p", broadcast=False)
        future = both.client.compute(merged.map_partitions(use, meta=merged._meta).c.sum())
        await eventually(
            lambda: len({id for worker in both.workers for id in worker_runs(worker)}) == 2
        )
        before = {id: state.run_id for id, state in active(both).items()}
        await fail_over(both)
        assert {id: state.run_id for id, state in active(both).items()} == before
        inputs.set()
        outputs.set()
        assert await future == FRAME.merge(other, on="b").c.sum()
        assert runs["input"] == PARTS


def read_block(block: np.ndarray) -> np.ndarray:
    runs["input"] += 1
    if runs["input"] > FREE:
        secede()  # so that transfers go on beside it
        assert inputs.wait(PATIENCE_S)
    return block


def use_block(block: np.ndarray) -> np.ndarray:
    runs["output"] += 1
    assert outputs.wait(PATIENCE_S)
    return block


@pytest.mark.parametrize("phase", [in_transfer, in_unpack])
async def test_a_rechunk_goes_on(phase: Any) -> None:
    async with pair() as both:
        values = np.arange(10_000).reshape(100, 100)
        rows = da.from_array(values, chunks=(10, 100)).map_blocks(read_block, meta=values[:0])
        columns = rows.rechunk((100, 10), method="p2p", block_size_limit=8_000)
        future = both.client.compute(columns.map_blocks(use_block, meta=values[:0]))
        run_id = await phase(both)
        await fail_over(both)
        assert {state.run_id for state in active(both).values()} == {run_id}
        inputs.set()
        outputs.set()
        np.testing.assert_array_equal(await future, values)
        assert runs["input"] == 10


async def test_the_runs_of_two_leaders_differ_and_ascend() -> None:
    async with pair() as both:
        seen = []
        inputs.set()
        outputs.set()
        for outputs_of_it in (5, 6):
            future = begin(both, outputs_of_it)
            assert await sums_of(future) == SUMS
            seen += [
                state.run_id
                for states in both.leader.extensions["shuffle"]._shuffles.values()
                for state in states
            ]
            if both.leader.term == 1:
                await fail_over(both)
        assert seen == sorted(set(seen))
        assert [run_id >> 32 for run_id in seen] == [1, 2]
