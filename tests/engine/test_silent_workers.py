"""Workers that say nothing: removed when their time to live is over, and not before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from distributed import Worker
from distributed.core import Status

from ha_scheduler.engine.stream.keys import decode_key
from ha_scheduler.engine.workers import registration as engine_workers
from ha_scheduler.engine.workers.expected import WORKERS
from ha_scheduler.ledger.records import ValueDeleted, ValueSet
from tests.engine.conftest import Pair, eventually, keep_away, pair, say_nothing
from tests.engine.counted import begin, blocked, gate, holders, on_each_worker, runs, work

TTL_SECONDS = 300.0


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    begin()
    monkeypatch.setattr(engine_workers, "LISTEN_SECONDS", 1.5)  # three heartbeats of two workers


def fall_silent(worker: Any) -> None:
    worker.periodic_callbacks["heartbeat"].stop()


def make_older(leader: Any, seconds: float) -> None:
    """As if so much time had passed since anybody was heard of."""
    for ws in leader.workers.values():
        ws.last_seen -= seconds


async def test_a_worker_silent_in_the_outage_is_removed_after_its_time_and_not_before() -> None:
    async with pair() as both:
        futures = await on_each_worker(both)
        silent, live = both.workers
        await both.kill_leader()
        fall_silent(silent)
        leader = await both.take_over()
        assert leader.worker_ttl == TTL_SECONDS
        make_older(leader, TTL_SECONDS - 5)
        await leader.check_worker_ttl()
        assert len(leader.workers) == 2
        make_older(leader, 10)
        await leader.check_worker_ttl()
        assert list(leader.workers) == [live.address]
        assert await both.client.gather(futures) == ["on0", "on1"]
        assert runs == {"on0": 2, "on1": 1}
        assert holders(leader, "on0") == {live.address}


async def test_a_leader_that_was_frozen_listens_before_it_takes_anybody_for_silent() -> None:
    async with pair() as both:
        futures = await on_each_worker(both)
        make_older(both.leader, TTL_SECONDS * 2)
        await both.leader.check_worker_ttl()
        assert len(both.leader.workers) == 2
        assert await both.client.gather(futures) == ["on0", "on1"]
        assert set(runs.values()) == {1}


def with_ttl(both: Pair, seconds: float) -> None:
    scheduler = both._scheduler

    def made(number: int) -> Any:
        follower = scheduler(number)
        follower.worker_ttl = seconds
        return follower

    both._scheduler = made


def left(both: Pair, address: str) -> bool:
    gone = [r for r in both.log.records if isinstance(r, ValueDeleted) and r.space == WORKERS]
    return address in [decode_key(r.name) for r in gone]


async def test_a_worker_that_never_reported_is_expected_until_its_time_is_over() -> None:
    async with pair() as both:
        missing = both.workers[0]
        keep_away(missing)
        await both.kill_leader()
        with_ttl(both, 0.5)
        leader = await both.take_over(window_seconds=0.1)
        assert missing.address not in leader.workers
        assert not left(both, missing.address)
        await eventually(lambda: left(both, missing.address))


async def test_a_worker_that_reported_late_stays_expected() -> None:
    async with pair() as both:
        late = both.workers[0]
        free = keep_away(late)
        await both.kill_leader()
        with_ttl(both, 0.5)
        before = len(both.log.records)
        leader = await both.take_over(window_seconds=0.1)
        free.set()
        await eventually(lambda: late.address in leader.workers)
        await asyncio.sleep(0.6)  # its time would be over
        assert not left(both, late.address)
        since = both.log.records[before:]
        joined = [r for r in since if isinstance(r, ValueSet) and r.space == WORKERS]
        assert late.address in [decode_key(r.name) for r in joined]


async def test_what_a_silent_worker_has_is_not_run_again_while_others_are_served() -> None:
    async with pair() as both:
        silent, other = both.workers
        futures = await on_each_worker(both)
        running = both.client.submit(
            blocked, 1, workers=[silent.address], allow_other_workers=True, key="running"
        )
        await eventually(lambda: runs[1] == 1)
        free = say_nothing(silent)
        await both.kill_leader()
        leader = await both.take_over(window_seconds=0.2)
        needs = both.client.submit(work, futures[0], key="needs")
        assert await both.client.submit(work, "new", workers=[other.address]) == "new"
        assert await futures[1] == "on1"
        leader.no_workers_timeout = 1e-9  # of a user who waits for no worker
        leader._check_no_workers()
        leader.transitions({"on0": "processing"}, "test")  # whoever recommends it
        assert leader.tasks["running"].state == leader.tasks["on0"].state == "no-worker"
        leader.validate_state()
        gate.set()
        free.set()
        assert await both.client.gather([*futures, running, needs]) == ["on0", "on1", 1, "on0"]
        assert runs == {"on0": 2, "on1": 1, 1: 1, "new": 1}  # "needs" is on0's second
        assert not leader.withheld
        leader.validate_state()


async def test_what_was_queued_is_given_out_bit_by_bit_when_a_silent_worker_has_reported() -> None:
    async with pair() as both:
        silent, _ = both.workers
        many = both.client.map(blocked, range(40), key="many")
        await eventually(lambda: len(runs) == 2)
        free = say_nothing(silent)
        await both.kill_leader()
        leader = await both.take_over(window_seconds=0.2)
        assert len(leader.withheld) >= 30
        leader.validate_state()
        free.set()
        await eventually(lambda: not leader.withheld and len(leader.workers) == 2)
        assert len(leader.queued) >= 30
        leader.validate_state()
        gate.set()
        assert await both.client.gather(many) == list(range(40))
        assert set(runs.values()) == {1}


async def test_a_silent_worker_that_ends_is_noticed_and_what_it_had_runs_elsewhere() -> None:
    async with pair() as both:
        silent, other = both.workers
        futures = await on_each_worker(both)
        say_nothing(silent)
        await both.kill_leader()
        leader = await both.take_over(window_seconds=0.2)
        assert leader.tasks["on0"].state == "no-worker"
        both.workers.remove(silent)
        await silent.close()
        assert await both.client.gather(futures) == ["on0", "on1"]
        assert runs == {"on0": 2, "on1": 1}
        assert holders(leader, "on0") == {other.address}
        assert left(both, silent.address)


async def test_what_a_silent_worker_had_runs_elsewhere_when_its_time_is_over() -> None:
    async with pair() as both:
        silent, other = both.workers
        futures = await on_each_worker(both)
        free = say_nothing(silent)
        await both.kill_leader()
        with_ttl(both, 0.5)
        leader = await both.take_over(window_seconds=0.1)
        assert await both.client.gather(futures) == ["on0", "on1"]
        assert runs == {"on0": 2, "on1": 1}
        free.set()
        await eventually(lambda: silent.address in leader.workers)
        assert holders(leader, "on0") >= {other.address}


async def test_a_silent_worker_that_lost_its_connection_is_not_taken_for_gone() -> None:
    async with pair() as both:
        silent, _ = both.workers
        futures = await on_each_worker(both)
        free = say_nothing(silent)

        async def identity_late(**arguments: Any) -> Any:
            await free.wait()

        silent.handlers["identity"] = identity_late
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patched:
            patched.setattr(engine_workers, "CALL_SECONDS", 0.3)
            patched.setattr(engine_workers, "RETURN_SECONDS", 0.0)
            silent._ha.abandon("a test")
            await eventually(lambda: both.leader.workers[silent.address].status == Status.paused)
            await asyncio.sleep(1.0)  # it would be removed after 0.3
            assert silent.address in both.leader.workers
            free.set()
            await eventually(lambda: both.leader.workers[silent.address].status == Status.running)
        assert await both.client.gather(futures) == ["on0", "on1"]
        assert set(runs.values()) == {1}


async def test_what_prefers_a_missing_worker_runs_on_one_of_upstreams_kind_that_joins() -> None:
    async with pair(1) as both:
        (wished,) = both.workers
        future = both.client.submit(
            work, 1, key="wish", workers=[wished.address], allow_other_workers=True
        )
        assert await future == 1
        await both.kill_leader()
        both.workers.clear()
        await wished.close()
        leader = await both.take_over()
        assert leader.tasks["wish"].state == "no-worker"
        async with Worker(leader.address, nthreads=1, dashboard_address=":0") as plain:
            assert await future.result() == 1
            assert holders(leader, "wish") == {plain.address}
        assert runs == {1: 2}
