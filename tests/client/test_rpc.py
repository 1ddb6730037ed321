"""Calls to the scheduler when the leader is lost in their midst."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dask
import pytest
from distributed.comm import CommClosedError
from distributed.core import ConnectionPool, PooledRPCCall

from client_replay.calls.rpc import SchedulerRPC
from client_replay.errors import NoLeader, OutcomeUnknown
from ha_scheduler.comm.address import Endpoint
from ha_scheduler.comm.pool import drop_pooled
from tests.worker.cell import free_ports
from tests.worker.scripted_leader import ScriptedLeader, until

pytestmark = pytest.mark.filterwarnings("default")


@asynccontextmanager
async def calling(*ports: int) -> AsyncIterator[SchedulerRPC]:
    pool = await ConnectionPool(timeout=1)
    address = "ha://" + ",".join(f"127.0.0.1:{port}" for port in ports)
    try:
        yield SchedulerRPC.around(pool(address), "session")
    finally:
        await pool.close()


async def test_what_may_be_repeated_is_repeated() -> None:
    leader = await ScriptedLeader().open()
    async with calling(leader.port) as rpc:
        assert await rpc.who_has(keys=["x"]) == "done"
        assert leader.calls == ["die_once"] * 2
    await leader.die()


async def test_what_may_not_is_sent_once_and_says_that_its_outcome_is_unknown() -> None:
    leader = await ScriptedLeader().open()
    async with calling(leader.port) as rpc:
        with pytest.raises(OutcomeUnknown, match="may have been done") as caught:
            await rpc.die_once()
        assert caught.value.op == "die_once"
        assert isinstance(caught.value, OSError)
        assert leader.calls == ["die_once"]
    await leader.die()


async def test_an_error_of_the_handler_is_an_answer() -> None:
    leader = await ScriptedLeader().open()
    async with calling(leader.port) as rpc:
        with pytest.raises(OSError, match="of its own"):
            await rpc.fail()
        assert leader.calls == ["fail"]
    await leader.die()


async def test_a_call_waits_for_a_leader() -> None:
    (port,) = free_ports(1)
    async with calling(port) as rpc:
        call = asyncio.ensure_future(rpc.echo(x=1))
        await asyncio.sleep(1.2)  # longer than the pool's own timeout
        leader = await ScriptedLeader().open(port)
        assert await asyncio.wait_for(call, 3) == 1
    await leader.die()


async def test_but_not_for_ever() -> None:
    with dask.config.set({"ha.client.reconnect-timeout": "0.2s"}):
        async with calling(*free_ports(1)) as rpc:
            with pytest.raises(NoLeader, match="'echo'"):
                await rpc.echo(x=1)


async def test_a_closed_pool_ends_the_waiting() -> None:
    async with calling(*free_ports(1)) as rpc:
        call = asyncio.ensure_future(rpc.echo(x=1))
        await asyncio.sleep(0.1)
        await rpc.pool.close()
        with pytest.raises((OSError, RuntimeError)):
            await asyncio.wait_for(call, 3)


async def test_dropping_the_pool_frees_a_call_to_a_frozen_leader() -> None:
    """core.py:1284: ``available``, ``occupied`` and ``_connecting``, keyed by address."""
    frozen = await ScriptedLeader().open()
    held = asyncio.Event()

    async def hold(comm: object) -> None:
        frozen.calls.append("who_has")
        await held.wait()

    frozen.handlers["who_has"] = hold
    async with calling(frozen.port) as rpc:
        call = asyncio.ensure_future(rpc.who_has())
        await until(lambda: frozen.calls)
        frozen.handlers["who_has"] = frozen.die_once
        drop_pooled(rpc.pool, rpc.addr, "another leads")
        assert await asyncio.wait_for(call, 3) == "done"
        rpc.pool._validate()
    held.set()
    await frozen.die()


async def test_dropping_the_pool_spares_a_call_to_the_new_leader() -> None:
    leader = await ScriptedLeader().open()
    answer, asked = asyncio.Event(), []

    async def hold(comm: object) -> str:
        asked.append(comm)
        await answer.wait()
        return "done"

    leader.handlers["who_has"] = hold
    async with calling(leader.port) as rpc:
        call = asyncio.ensure_future(rpc.who_has())
        await until(lambda: asked)
        spared = Endpoint("127.0.0.1", leader.port)
        drop_pooled(rpc.pool, rpc.addr, "another leads", spared=spared)
        answer.set()
        assert await asyncio.wait_for(call, 3) == "done"
        assert len(asked) == 1
    await leader.die()


async def test_dropping_the_pool_frees_a_connection_that_is_being_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        pool = await ConnectionPool(timeout=30)
        address = f"tcp://127.0.0.1:{port}"
        call = asyncio.ensure_future(SchedulerRPC.around(pool(address), "session").echo(x=1))
        await until(lambda: pool._connecting.get(address))
        (before,) = pool._connecting[address]
        drop_pooled(pool, address, "another leads")
        await until(lambda: before not in pool._connecting.get(address, ()))
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await pool.close()


async def test_dropping_the_pool_again_while_a_connection_is_ending_is_harmless() -> None:
    """A worker and the client of its tasks share a pool, and both hear of the new leader."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        pool = await ConnectionPool(timeout=30)
        address = f"ha://127.0.0.1:{deaf.getsockname()[1]}"
        connecting = asyncio.ensure_future(pool.connect(address))
        await until(lambda: pool._connecting.get(address))
        drops = 0
        while not connecting.done():
            drop_pooled(pool, address, "another leads")
            drops += 1
            await asyncio.sleep(0)
        assert drops > 1, "it takes some steps to end"
        with pytest.raises(CommClosedError, match="another leads"):
            await connecting
        await pool.close()


async def test_around_is_idempotent_and_keeps_what_upstream_reads() -> None:
    """core.py:1205: ``addr`` is read at each call, so that it can be pointed elsewhere."""
    pool = await ConnectionPool()
    call = pool("tcp://127.0.0.1:1")
    rpc = SchedulerRPC.around(call, "session")
    assert SchedulerRPC.around(rpc, "another") is rpc
    assert isinstance(rpc, PooledRPCCall)
    assert (rpc.address, rpc.pool) == (call.address, pool)
    rpc.addr = "ha://127.0.0.1:2"
    assert rpc.address == "ha://127.0.0.1:2"
    await pool.close()
