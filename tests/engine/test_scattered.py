"""Scattered data, which nobody can compute again, is kept for as long as somebody may bring it."""

from __future__ import annotations

import asyncio
from typing import Any

import dask
import pytest
from distributed.client import FutureCancelledError

from ha_scheduler.engine.takeover import orphans
from tests.engine.conftest import Pair, eventually, keep_away, pair
from tests.engine.counted import begin, runs, work


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


async def lose_leader_and_wait_for(both: Pair, late: Any) -> tuple[Any, asyncio.Event]:
    """The next leader, which opens without ``late``, and what lets that come back."""
    free = keep_away(late)
    await both.kill_leader()
    return await both.take_over(window_seconds=0.2), free


async def test_data_comes_back_with_a_holder_that_reports_after_the_window() -> None:
    async with pair() as both:
        late, other = both.workers
        data = await both.client.scatter(5, workers=[late.address])
        leader, free = await lose_leader_and_wait_for(both, late)
        assert leader.tasks[data.key].state == "no-worker"
        result = both.client.submit(work, data, workers=[other.address])
        await eventually(lambda: result.key in leader.tasks)
        assert leader.tasks[result.key].state == "waiting"
        assert not data.cancelled()
        free.set()
        assert await result == 5
        assert await data == 5
        assert leader.tasks[data.key].worker_restrictions is None
        leader.validate_state()


async def test_data_that_is_no_longer_wanted_is_not_waited_for() -> None:
    async with pair() as both:
        late = both.workers[0]
        data = await both.client.scatter(5, workers=[late.address])
        key = data.key
        leader, free = await lose_leader_and_wait_for(both, late)
        data.release()
        await eventually(lambda: key not in leader.tasks)
        leader.validate_state()
        free.set()
        await eventually(lambda: late.address in leader.workers)


async def test_a_result_comes_back_with_its_worker_though_the_data_it_was_made_of_is_gone() -> None:
    async with pair() as both:
        late = both.workers[0]
        data = await both.client.scatter(5, workers=[late.address])
        result = both.client.submit(work, data, workers=[late.address])
        assert await result == 5
        data.release()
        await eventually(lambda: len(both.leader.tasks) == 1)
        leader, free = await lose_leader_and_wait_for(both, late)
        free.set()
        assert await both.client.submit(work, 6) == 6
        await eventually(lambda: leader.tasks[result.key].state == "memory")
        assert await result == 5
        assert runs[5] == 1
        leader.validate_state()


@pytest.mark.parametrize("how", ["dies with the leader", "stays silent"])
async def test_clients_are_told_which_data_was_lost_with_which_worker(how: str) -> None:
    async def check(both: Pair) -> None:
        lost, other = both.workers
        data = await both.client.scatter(5, workers=[lost.address])
        held = both.client.submit(work, data, workers=["nowhere"])
        await eventually(lambda: held.key in both.leader.tasks)
        if how == "dies with the leader":
            await both.kill_leader()
            both.workers.remove(lost)
            await lost.close()
            leader = await both.take_over()
        else:
            leader, _ = await lose_leader_and_wait_for(both, lost)
        await eventually(lambda: data.cancelled() and held.cancelled())
        for future in (data, held):
            with pytest.raises(FutureCancelledError) as error:
                await future
            assert repr(data.key) in str(error.value)
            assert lost.address in str(error.value)
        assert not leader.held
        leader.validate_state()
        again = await both.client.scatter(5, workers=[other.address])
        assert await again == 5

    with dask.config.set({"distributed.scheduler.worker-ttl": "500ms"}):
        both = Pair()
        await both.start()
        try:
            await check(both)
        finally:
            await both.close()


# A scattering in flight


def hold_back(leader: Any) -> asyncio.Event:
    """The leader gets told of scattered data, and dies before it does anything about it."""
    asked = asyncio.Event()

    async def never(**kwargs: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    leader.handlers["update_data"] = never
    return asked


@pytest.mark.parametrize(("direct", "noted"), [(True, False), (True, True), (False, True)], ids=str)
async def test_data_that_has_arrived_is_kept_though_its_scattering_is_repeated(
    direct: bool, noted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``noted``: the leader did note it, and the note never committed."""
    monkeypatch.setattr(orphans, "GRACE_SECONDS", 0.5)
    async with pair(1) as both:
        (worker,) = both.workers
        both.log.stall()
        asked = hold_back(both.leader) if not noted else None
        scattering = asyncio.ensure_future(both.client.scatter({"key": 5}, direct=direct))
        if asked is not None:
            await asked.wait()
        else:
            await eventually(lambda: "key" in both.leader.tasks)
        assert "key" in worker.data
        both.leader.recorder.flush()
        await both.kill_leader(lose_records=both.log.stalled)
        both.log.resume()
        leader = await both.take_over()
        data = (await scattering)["key"]
        expiry = leader.adoption.orphans.expiry
        assert expiry is not None
        await eventually(lambda: expiry.when() < asyncio.get_running_loop().time())
        assert await both.client.submit(work, data) == 5
        assert "key" in worker.data
        leader.validate_state()


async def test_a_scattering_to_a_worker_that_died_with_the_leader_says_so() -> None:
    async with pair() as both:
        dead, _ = both.workers
        asked = hold_back(both.leader)
        scattering = asyncio.ensure_future(
            both.client.scatter({"key": 5}, direct=True, workers=[dead.address])
        )
        await asked.wait()
        await both.kill_leader()
        both.workers.remove(dead)
        await dead.close()
        await both.take_over()
        with pytest.raises(RuntimeError, match="Scatter it again"):
            await scattering
