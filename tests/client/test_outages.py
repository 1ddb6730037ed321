"""What a caller sees while nobody leads."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import dask
import pytest

from client_replay import Client, NoLeader
from client_replay.lifecycle import connecting
from client_replay.session.outages import Outages
from ha_scheduler.comm.directory import forget_directories
from tests.client.scripted import commit, connected
from tests.worker.cell import free_ports
from tests.worker.scripted_leader import ScriptedLeader, until

pytestmark = pytest.mark.filterwarnings("default")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_outage_has_its_phases_and_one_that_breaks_again_is_the_same() -> None:
    clock = Clock()
    outages = Outages(clock)
    outages.begin("a (term 1)", 3)
    clock.now += 1
    outages.reached("connected")
    outages.begin("b (term 2)", 3)  # it is lost before it has welcomed us
    clock.now += 1
    outages.over("c", 3)
    (outage,) = outages.all()
    assert (outage.leader, outage.successor, outage.term) == ("a (term 1)", "c", 3)
    assert (outage.seconds, outage.phases) == (2.0, {"connected": 1.0, "welcomed": 2.0})
    outages.over("c", 3)
    assert outages.present is None
    assert len(outages.all()) == 1


def test_the_story_names_who_is_silent_since_when_and_who_was_tried_and_why() -> None:
    clock = Clock()
    outages = Outages(clock)
    outages.begin("a (term 1)", 0)
    clock.now += 10
    outages.heard_of({"b": "Connection refused", "c": "no answer in time"})
    first = outages.story({}, 3)
    assert "(10 s)" in first
    assert "2 of 3 peers do not answer since" in first
    clock.now += 50
    outages.heard_of({"c": "no answer in time"})
    assert "1 of 3 peers do not answer since" in outages.story({}, 3)
    assert "tried tls://x:1 (refused)" in outages.story({"tls://x:1": "refused"}, 3)


async def test_an_outage_is_told_at_once_and_at_its_end_without_any_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, (port,) = await ScriptedLeader(term=1, name="first").open(), free_ports(1)
    async with connected(first, port) as client:
        future = client.submit(int, key="x")
        await until(lambda: client._ha.follower.fence.term)
        assert client.outages == []
        with caplog.at_level(logging.INFO):
            await first.die()
            await until(lambda: client.outages)
            assert future.status == "pending"
            assert "without a leader since" in repr(client)
            second = await ScriptedLeader(term=2, name="second").open(port)
            await until(lambda: client.outages[-1].ended)
        (outage,) = client.outages
        assert (outage.successor, outage.term, list(outage.phases)) == (
            *("second", 2), ["connected", "welcomed"],
        )  # fmt: skip
        assert "leader='second' term=2" in repr(client)
        told = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert [getattr(record, "action", record.message) for record in told] == [
            "outage_began", "outage_over",
        ]  # fmt: skip
        assert not [record for record in caplog.records if record.exc_info]
        await second.tell(commit([1]), {"op": "key-in-memory", "key": "x"})
        await until(future.done)
    await second.die()


async def test_a_long_outage_is_told_again_and_again_but_no_flood(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "FIRST_REMINDER_S", 0.1)
    monkeypatch.setattr(connecting, "REMIND_S", 0.2)
    leader, (silent,) = await ScriptedLeader(term=1, name="lost").open(), free_ports(1)
    leader.welcome = {"watch": [["lost", "127.0.0.1", silent]]}
    async with connected(leader) as client:
        await until(lambda: client._ha.follower.fence.joined)
        client._ha.view = client._ha.view or client._ha.follower.directory.view
        await leader.die()

        def lasting() -> list[str]:
            return [r.message for r in caplog.records if getattr(r, "action", "") == "outage_lasts"]

        await until(lambda: len(lasting()) >= 2)
        assert "1 of 1 peers do not answer since" in lasting()[-1]
        assert f"127.0.0.1:{leader.port} (" in lasting()[-1]
        assert len(lasting()) < 10


async def test_who_gives_up_says_who_was_tried_since_when_and_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with dask.config.set({"ha.client.reconnect-timeout": "0.5s"}):
        leader = await ScriptedLeader(name="lost").open()
        async with connected(leader) as client:
            await until(lambda: client._ha.view)
            pending, done = client.submit(int, key="pending"), client.submit(int, key="done")
            await until(lambda: len(leader.said("update-graph")) == 2)
            await leader.tell({"op": "key-in-memory", "key": "done"})
            await until(done.done)
            await leader.die()
            with pytest.raises(NoLeader) as told:
                await pending
            assert "no leader was found since" in str(told.value)
            assert f"127.0.0.1:{leader.port} (" in str(told.value)
            assert "reconnect-timeout" in str(told.value)
            assert done.cancelled()
            await until(lambda: client.status == "closed")
            assert list(client.outages[-1].phases) == ["gave up"]


async def test_a_result_honours_its_timeout_and_a_callback_fires_once_in_an_outage() -> None:
    first, (port,) = await ScriptedLeader(term=1).open(), free_ports(1)
    called: list[Any] = []
    timed_out = threading.Event()

    def use(began: threading.Event) -> None:
        address = f"ha://127.0.0.1:{first.port},127.0.0.1:{port}"
        with Client(address, timeout=5, set_as_default=False) as client:
            future = client.submit(int, key="x")
            future.add_done_callback(called.append)
            while client.status != "connecting":
                began.set()
                time.sleep(0.01)
            at = time.monotonic()
            with pytest.raises(TimeoutError):
                future.result(timeout=0.2)
            assert time.monotonic() - at < 3
            assert future.status == "pending"
            more = client.submit(int, key="y")  # it queues
            timed_out.set()
            future._state._get_event()
            client.sync(future._state.wait)
            assert more.status == "pending"

    forget_directories()
    began = threading.Event()
    using = asyncio.ensure_future(asyncio.to_thread(use, began))
    await until(began.is_set)
    await until(lambda: first.said("update-graph"))
    await first.die()
    await until(timed_out.is_set, within_s=10)
    second = await ScriptedLeader(term=2).open(port)
    await until(lambda: len(second.said("update-graph")) == 2)
    await second.tell({"op": "key-in-memory", "key": "x"})
    await until(lambda: called)
    await using
    assert len(called) == 1
    await second.die()
