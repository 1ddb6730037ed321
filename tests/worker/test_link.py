"""Joining, leaving and rejoining a leader that does what the test says."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from time import time
from typing import Any

import dask
import distributed
import pytest
from distributed import Status, WorkerPlugin
from distributed.comm import connect
from distributed.worker_state_machine import RUN_ID_SENTINEL, UpdateDataEvent

from ha_scheduler.comm.address import Endpoint
from ha_scheduler.comm.directory import View, forget_directories
from ha_scheduler.protocol.codec import from_op
from ha_scheduler.protocol.worker import STALE, Joining, RegisterWorker, Report
from ha_scheduler.worker import link
from ha_scheduler.worker.link import Phase
from ha_scheduler.worker.worker import Worker, upgrade
from tests.worker.cell import free_ports
from tests.worker.scripted_leader import ScriptedLeader, until

pytestmark = pytest.mark.filterwarnings("default")


@asynccontextmanager
async def joined(leader: ScriptedLeader, *others: int) -> AsyncIterator[Worker]:
    forget_directories()
    ports = (leader.port, *others)
    address = "ha://" + ",".join(f"127.0.0.1:{port}" for port in ports)
    worker = await Worker(address, nthreads=1, dashboard=False, name="w", heartbeat_interval=0.05)
    try:
        yield worker
    finally:
        await worker.close()


def put(worker: Any, **data: Any) -> None:
    worker.handle_stimulus(UpdateDataEvent(data=data, stimulus_id="test"))


async def test_the_first_registration_has_upstreams_fields_and_an_empty_report() -> None:
    """worker.py:1097"""
    leader = await ScriptedLeader(term=3).open()
    async with joined(leader) as worker:
        (message,) = leader.registrations
        nothing = Report(heard=RUN_ID_SENTINEL)
        assert from_op(RegisterWorker, message).ha == Joining(0, nothing, {})
        assert {"address", "status", "nthreads", "name", "now", "resources"} <= set(message)
        assert {"memory_limit", "local_directory", "services", "nanny"} <= set(message)
        assert {"pid", "versions", "metrics", "extra", "stimulus_id"} <= set(message)
        assert worker._ha.follower.fence.term == 3
        assert worker.status == Status.running
    await leader.die()


async def test_the_next_leader_is_told_what_the_worker_holds_and_the_worker_lives() -> None:
    first, (port,) = await ScriptedLeader(term=1).open(), free_ports(1)
    async with joined(first, port) as worker:
        put(worker, x=1)
        await first.die()
        await until(lambda: worker._ha.phase is Phase.DOWN)
        worker.log_event("topic", "said to nobody")
        worker.batched_send({"op": "long-running", "key": "x"})
        second = await ScriptedLeader(term=2).open(port)
        await until(lambda: worker._ha.phase is Phase.UP)
        (message,) = second.registrations
        joining = from_op(RegisterWorker, message).ha
        assert joining.term == 1
        assert [entry[0] for entry in joining.report.memory] == ["x"]
        assert message["status"] == "running"
        await until(lambda: second.said("log-event"))
        assert [event["msg"] for event in second.said("log-event")] == ["said to nobody"]
        assert second.said("long-running") == []  # superseded by the report
        assert worker.status == Status.running
        assert worker._ha.follower.fence.term == 2
    await second.die()


async def test_a_worker_that_is_closing_and_loses_its_stream_begins_no_registration() -> None:
    leader = await ScriptedLeader().open()
    async with joined(leader) as worker:
        await worker._ha.stop()  # as ``close`` does first, while the worker still runs
        worker._ha.abandon("its stream was lost")
        assert worker._ha._rejoining is None
    assert len(leader.registrations) == 1
    await leader.die()


async def test_what_happens_between_snapshot_and_stream_is_said_on_the_stream() -> None:
    leader = await ScriptedLeader().open()
    async with joined(leader) as worker:

        async def meanwhile() -> None:
            worker.log_event("topic", "in between")
            assert worker._ha.phase is Phase.BUFFERING

        leader.answer = lambda message: meanwhile() if "ha" in message else None
        worker._ha.abandon("test")
        await until(lambda: leader.said("log-event"))
        assert leader.said("log-event")[0]["msg"] == "in between"
    await leader.die()


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "stale-leader", "term": 0, "time": 0.0},
        {"status": "error", "message": "busy", "time": 0.0},
        {
            "status": "OK",
            "time": 0.0,
            "worker-plugins": {},
            "ha": {"term": 1, "cell": "test", "watch": [], "addresses": [], "leader": "old"},
        },
    ],
    ids=["stale", "refused", "older term"],
)
async def test_an_answer_that_is_no_welcome_makes_a_rejoining_worker_ask_again(answer: Any) -> None:
    leader = await ScriptedLeader(term=2).open()
    async with joined(leader) as worker:
        leader.answer = lambda message: answer if "ha" in message else None
        worker._ha.abandon("test")
        await until(lambda: len(leader.registrations) >= 3)
        leader.answer = lambda message: None
        await until(lambda: worker._ha.phase is Phase.UP)
        assert (worker._ha.follower.fence.term, worker.status) == (2, Status.running)
    await leader.die()


async def test_a_refusal_at_the_first_registration_is_fatal_as_upstream() -> None:
    leader = await ScriptedLeader().open()
    refusal = {"status": "error", "message": "name taken, w", "time": time()}
    leader.answer = lambda message: refusal
    with pytest.raises(RuntimeError) as caught:
        async with joined(leader):
            raise AssertionError("it joined")
    assert "name taken" in str(caught.value.__cause__)
    await leader.die()


async def test_a_heartbeat_that_is_missing_or_fails_makes_the_worker_rejoin_not_close() -> None:
    leader = await ScriptedLeader().open()
    async with joined(leader) as worker:
        await until(lambda: leader.beats)
        leader.beat_status = "missing"
        await until(lambda: len(leader.registrations) == 2)
        leader.beat_status = "OK"
        leader.handlers["heartbeat_worker"] = lambda **message: 1 / 0
        await asyncio.sleep(0.2)
        leader.handlers["heartbeat_worker"] = leader.beat
        count = len(leader.beats)
        await until(lambda: len(leader.beats) > count)
        assert worker.status == Status.running
    await leader.die()


async def test_metrics_are_always_taken_together_with_what_the_extensions_say() -> None:
    """spans.py:662 asserts that it was asked since the last time."""
    leader = await ScriptedLeader().open()
    async with joined(leader) as worker:
        worker.digest_metric(("execute", "span", "prefix", "thread-cpu", "seconds"), 1.0)
        worker._ha.abandon("test")
        await until(lambda: len(leader.registrations) == 2)
        count = len(leader.beats)
        await until(lambda: len(leader.beats) > count + 1)
    await leader.die()


async def test_close_from_the_leader_closes() -> None:
    leader = await ScriptedLeader().open()
    async with joined(leader) as worker:
        await leader.tell({"op": "close", "reason": "retired"})
        await until(lambda: worker.status == Status.closed)
    assert len(leader.registrations) == 1
    await leader.die()


async def test_a_leader_of_a_later_term_that_calls_is_joined_at_once() -> None:
    old, (port,) = await ScriptedLeader(term=1).open(), free_ports(1)
    async with joined(old, port) as worker, distributed.core.rpc(worker.address) as call:
        new = await ScriptedLeader(term=2).open(port)  # not before: it would be found at once
        stale = await getattr(call, "ha-leader")(term=0, address=new.address, leader="x")
        assert stale == {"status": STALE, "term": 1}
        answer = await getattr(call, "ha-leader")(term=2, address=new.address, leader="new")
        assert answer == {"status": "OK"}
        await until(lambda: new.registrations, within_s=1)
        again = await getattr(call, "ha-leader")(term=1, address=old.address, leader="old")
        assert again == {"status": STALE, "term": 2}
        assert len(old.registrations) == 1
    await old.die()
    await new.die()


@pytest.mark.parametrize("moment", ["connecting", "connected"])
async def test_a_leader_told_of_before_the_worker_registers_with_another_is_joined_at_once(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other accepts and does not answer, and no later view comes."""
    first, (port,) = await ScriptedLeader(term=1).open(), free_ports(1)
    async with joined(first, port) as worker:
        new = ScriptedLeader(term=2)
        told = False

        async def tell() -> None:
            nonlocal told
            if not told:
                told = True
                await new.open(first.port)
                view = View("test", 2, "new", Endpoint("127.0.0.1", first.port))
                assert worker._ha.follower.directory is not None
                worker._ha.follower.directory.observe(view)
                await until(lambda: worker._ha.follower.fence.term == 2)

        async def connect_and_tell(*args: Any, **kwargs: Any) -> Any:
            comm = await connect(*args, **kwargs)
            await tell()
            return comm

        async def startup_information() -> dict[str, Any]:
            await tell()
            return {}

        if moment == "connecting":
            monkeypatch.setattr(link, "connect", connect_and_tell)
        else:
            worker.get_startup_information = startup_information
        await first.die()
        deaf = await ScriptedLeader(term=1).open(port)
        deaf.answer = lambda message: asyncio.Event().wait()
        await until(lambda: new.registrations, within_s=5)
        assert not deaf.registrations
    await deaf.die()
    await new.die()


async def test_the_rest_of_a_batch_of_a_leader_of_before_is_not_obeyed() -> None:
    leader = await ScriptedLeader(term=1).open()
    async with joined(leader) as worker:
        put(worker, x=1, y=1)

        def deposed() -> None:
            worker._ha.follower.hear(View("test", 2, "new", Endpoint("127.0.0.1", 1)))

        worker.stream_handlers["depose"] = deposed
        free = {"op": "free-keys", "stimulus_id": "test"}
        leader.answer = lambda message: {"status": "stale-leader", "term": 1, "time": 0.0}
        await leader.tell({**free, "keys": ["x"]}, {"op": "depose"}, {**free, "keys": ["y"]})
        await until(lambda: worker._ha.follower.fence.term == 2)
        await asyncio.sleep(0.1)
        assert set(worker.data) == {"y"}
    await leader.die()


class Plugin(WorkerPlugin):  # type: ignore[misc]
    """Counts how often it is set up."""

    name = "counting"
    setups = 0

    def setup(self, worker: Any) -> None:
        Plugin.setups += 1


async def test_a_plugin_that_the_worker_has_is_not_set_up_again() -> None:
    leader = await ScriptedLeader().open()
    pickled = pickle.dumps(Plugin())
    leader.plugins = {"counting": pickled}
    async with joined(leader) as worker:
        assert Plugin.setups == 1
        worker._ha.abandon("test")
        await until(lambda: len(leader.streams) == 2 and worker._ha.phase is Phase.UP)
        await asyncio.sleep(0.05)
        assert Plugin.setups == 1
        digest = sha256(pickled).hexdigest()
        assert from_op(RegisterWorker, leader.registrations[1]).ha.plugins == {"counting": digest}
    await leader.die()


async def test_a_worker_gives_up_after_the_time_that_is_configured() -> None:
    with dask.config.set({"ha.worker.rejoin-timeout": "0.3s"}):
        leader = await ScriptedLeader().open()
        async with joined(leader) as worker:
            await leader.die()
            await until(lambda: worker.status == Status.closed, within_s=10)


async def test_a_worker_says_soon_for_how_long_it_looks_for_a_leader(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PATIENCE_S", 0.1)
    leader = await ScriptedLeader().open()
    with caplog.at_level(logging.WARNING, logger="distributed.worker.ha"):
        async with joined(leader):
            await leader.die()
            await until(lambda: "looks for 3600 s in all" in caplog.text)
    assert "DASK_HA__WORKER__REJOIN_TIMEOUT, shortens that" in caplog.text


async def looking(caplog: pytest.LogCaptureFixture) -> str:
    """What a worker says that finds no leader."""
    begins = "Looking for the leader of "
    said = await until(lambda: [text for text in caplog.messages if text.startswith(begins)])
    return str(said[0])


async def test_a_worker_that_finds_no_leader_says_why(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "CONNECT_S_MAX", 0.3)
    leader = await ScriptedLeader().open()
    with caplog.at_level(logging.INFO, logger="distributed.worker.ha"):
        async with joined(leader):
            await leader.die()
            said = await looking(caplog)
            assert f"127.0.0.1:{leader.port}: " in said
            assert said.endswith("Connection refused)")


async def test_a_worker_whose_leader_accepts_and_does_not_answer_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "REPLY_S_MAX", 0.1)
    leader = await ScriptedLeader().open()
    with caplog.at_level(logging.INFO, logger="distributed.worker.ha"):
        async with joined(leader) as worker:
            leader.answer = lambda message: asyncio.Event().wait() if "ha" in message else None
            worker._ha.abandon("test")
            assert (await looking(caplog)).endswith(": no answer in time")
    await leader.die()


async def test_a_plain_worker_is_upgraded_in_place_whatever_its_class() -> None:
    class Mine(distributed.Worker):  # type: ignore[misc]
        pass

    for kind in (distributed.Worker, Mine):
        worker = kind("tcp://127.0.0.1:1", dashboard=False)
        upgrade(worker)
        upgrade(worker)
        assert isinstance(worker, (Worker, kind))
        assert isinstance(worker, Worker)
        assert type(worker).__name__ == kind.__name__
        assert worker.periodic_callbacks["heartbeat"].callback == worker.heartbeat
        assert worker.stream_handlers["close"] == worker.close
        await worker.close()


async def test_an_unmodified_scheduler_takes_the_worker_as_upstreams() -> None:
    """core.py:780: an unknown operation is answered with None."""
    async with (
        distributed.Scheduler(port=0, dashboard=False, host="127.0.0.1") as scheduler,
        Worker(scheduler.address, nthreads=1, dashboard=False) as worker,
    ):
        assert worker._ha.plain
        assert worker.address in scheduler.workers
        async with distributed.Client(
            scheduler.address, asynchronous=True, set_as_default=False
        ) as client:
            assert await client.submit(lambda: 1) == 1
        await scheduler.close()
        await until(lambda: worker.status == Status.closed)
