"""What a client that closes waits for, and for how long."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import pytest
from distributed import fire_and_forget

from client_replay import Client
from client_replay.lifecycle import closing as client_module
from ha_scheduler.comm.directory import forget_directories
from tests.client.scripted import commit, connected
from tests.worker.cell import free_ports
from tests.worker.scripted_leader import ScriptedLeader, until

pytestmark = pytest.mark.filterwarnings("default")


async def test_closing_during_an_outage_is_quick_and_leaves_no_task() -> None:
    leader = await ScriptedLeader().open()
    async with connected(leader) as client:
        client.submit(int, key="x")
        await leader.die()
        await until(lambda: client.status == "connecting")
        began = asyncio.get_running_loop().time()
        await client.close()
        assert asyncio.get_running_loop().time() - began < 3
    assert client.status == "closed"


@pytest.mark.parametrize("how", ["close", "with"])
@pytest.mark.parametrize("what", ["ha-fire-and-forget", "cancel-keys"])
async def test_what_outlives_a_client_is_told_to_the_next_leader_before_it_closes(
    how: str, what: str
) -> None:
    with mock.patch.object(client_module, "GOODBYE_S_MAX", 30.0):
        first, (port,) = await ScriptedLeader(term=1).open(), free_ports(1)
        async with connected(first, port) as client:
            future = client.submit(int, key="x")
            if what == "cancel-keys":
                await client.cancel([future])
            else:
                fire_and_forget(future)
            closing = asyncio.ensure_future(
                client.close() if how == "close" else client.__aexit__(None, None, None)
            )
            await until(lambda: first.said(what))
            await first.die()
            second = await ScriptedLeader(term=2).open(port)
            await until(lambda: second.said(what))
            assert [graph["ha_sequence"] for graph in second.said("update-graph")] == [1]
            assert not closing.done()
            await second.tell(commit([1, 2]))
            await closing
            assert client.status == "closed"
            assert second.ops()[-2:] == ["close-client", "close-stream"]
        await second.die()


async def test_a_client_waits_for_nothing_that_ends_with_it() -> None:
    with mock.patch.object(client_module, "GOODBYE_S_MAX", 60.0):
        leader = await ScriptedLeader().open()
        async with connected(leader) as client:
            fired, future = client.submit(int, key="fired"), client.submit(int, key="x")
            fire_and_forget(fired)
            await until(lambda: leader.said("ha-fire-and-forget"))
            await leader.tell(commit([1, 3]))
            await until(lambda: len(client._ha.journal) == 1)
            assert future.status == "pending"
            await asyncio.wait_for(client.close(), 10)
        await leader.die()


async def test_a_client_that_closes_waits_for_a_leader_no_longer_than_it_may_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with mock.patch.object(client_module, "GOODBYE_S_MAX", 0.1):
        leader = await ScriptedLeader().open()
        async with connected(leader) as client:
            fire_and_forget(client.submit(int, key="x"))
            await asyncio.wait_for(client.close(), 10)
            assert client.status == "closed"
            (warning,) = [r for r in caplog.records if "outlives it" in r.message]
            assert "1 cancellations and fire-and-forget requests (of ['x']), 0 calls" in (
                warning.message
            )
        await leader.die()


@pytest.mark.parametrize("how", ["close", "with"])
async def test_a_client_that_closes_waits_for_the_calls_under_way(how: str) -> None:
    with mock.patch.object(client_module, "GOODBYE_S_MAX", 30.0):
        leader = await ScriptedLeader().open()
        async with connected(leader) as client:
            await until(lambda: client._ha.follower.fence.term)
            begun, finish = asyncio.Event(), asyncio.Event()

            async def call(msg: Any) -> None:
                begun.set()
                await finish.wait()

            client._call_or_send = call
            client._send_to_scheduler({"op": "queue_release", "name": "q"})
            closing = asyncio.ensure_future(
                client.close() if how == "close" else client.__aexit__(None, None, None)
            )
            await begun.wait()
            await asyncio.sleep(0.1)  # a close that does not wait is over by then
            assert client.status == "running"
            finish.set()
            await closing
        await leader.die()


async def test_a_client_of_another_thread_waits_when_it_closes() -> None:
    with mock.patch.object(client_module, "GOODBYE_S_MAX", 30.0):
        leader = await ScriptedLeader().open()

        def use() -> None:
            address = f"ha://127.0.0.1:{leader.port}"
            with Client(address, timeout=5, set_as_default=False) as client:
                fire_and_forget(client.submit(int, key="x"))

        forget_directories()
        using = asyncio.ensure_future(asyncio.to_thread(use))
        await until(lambda: leader.said("ha-fire-and-forget"))
        await asyncio.sleep(0.1)  # a close that does not wait has said goodbye by then
        assert "close-client" not in leader.ops()
        await leader.tell(commit([1, 2]))
        await using
        assert "close-client" in leader.ops()
        await leader.die()
