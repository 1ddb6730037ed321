"""What narrows one client and not another, and who may speak for a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dask
import pytest
from distributed import Event, Status
from distributed.core import clean_exception

from ha_scheduler.protocol.codec import to_op
from ha_scheduler.protocol.worker import Joining, RegisterWorker, Report
from ha_scheduler.security.identity import Identity, Scopes, TokenRole
from tests.engine.callers import ROLES, Subjects, subjects
from tests.engine.conftest import eventually
from tests.engine.test_rights import refused


@asynccontextmanager
async def narrowed(
    monkeypatch: pytest.MonkeyPatch, **scopes: Any
) -> AsyncIterator[tuple[Subjects, Any]]:
    """A client whose token has these scopes."""
    dave = Identity("dave", TokenRole.CLIENT, Scopes(**scopes), token_id="d")
    monkeypatch.setitem(ROLES, "dave", dave)
    async with subjects() as both:
        client = await both.client_of("dave")
        yield both, client
        await client.close()


async def test_a_key_has_to_begin_as_the_scope_says(monkeypatch: pytest.MonkeyPatch) -> None:
    async with narrowed(monkeypatch, key_prefix="dave-") as (both, client):
        with pytest.raises(PermissionError, match="key_prefix = 'dave-': 'x' does not begin"):
            await client.submit(int, 1, key="x")
        with pytest.raises(PermissionError, match="does not begin"):
            await client.scatter({"x": 1}, direct=False)
        assert await client.submit(int, 2, key="dave-x") == 2
        assert await client.submit(int, 2, key=("dave-x", 0)) == 2
        assert "x" not in both.leader.tasks
        assert await both.client.submit(int, 3, key="x") == 3


async def test_a_priority_is_not_above_the_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    async with narrowed(monkeypatch, priority_max=5) as (_, client):
        for options in ({"priority": 6}, {"priority": 1e300}):
            with pytest.raises(PermissionError, match="priority_max = 5"):
                await client.submit(int, 1, pure=False, **options)
        with dask.annotate(priority=7), pytest.raises(PermissionError, match="priority_max"):
            await client.compute(dask.delayed(int)(1))
        assert await client.submit(int, 1, priority=5) == 1


@pytest.mark.parametrize("rebuilt", [False, True])
async def test_a_quota_of_tasks_counts_what_is_not_finished_under_the_next_leader_too(
    monkeypatch: pytest.MonkeyPatch, rebuilt: bool
) -> None:
    async with narrowed(monkeypatch, tasks_max=3) as (both, client):
        free = await Event("free", client=both.client)
        waits = [client.submit(lambda e: e.wait(), free, key=f"waits-{i}") for i in range(3)]
        await eventually(lambda: "waits-2" in both.leader.tasks)
        with pytest.raises(PermissionError, match="tasks_max = 3: 3 tasks or more"):
            await client.submit(int, 1)
        await both.kill_leader()
        await both.take_over(rebuilt=rebuilt)
        with pytest.raises(PermissionError, match="tasks_max = 3"):
            await client.submit(int, 2)
        await free.set()
        await asyncio.gather(*waits)
        assert await client.gather(client.map(int, [1, 2, 3], pure=False)) == [1, 2, 3]


async def test_a_quota_of_bytes_counts_what_the_ledger_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with narrowed(monkeypatch, bytes_max=100_000) as (both, client):
        held = client.submit(len, "x" * 60_000, pure=False)
        assert await held == 60_000
        with pytest.raises(PermissionError, match="bytes_max = 100000"):
            await client.submit(len, "y" * 60_000, pure=False)
        assert await both.client.submit(len, "y" * 60_000, pure=False) == 60_000
        held.release()
        await eventually(lambda: not both.leader.graphs.of_subject("dave"))
        assert await client.submit(len, "y" * 60_000, pure=False) == 60_000


@pytest.mark.parametrize(
    ("line", "op"),
    [("run-on-scheduler", "run_function"), ("plugins", "register_scheduler_plugin")],
)
async def test_one_line_of_configuration_turns_it_off_for_all_but_an_admin(
    line: str, op: str
) -> None:
    async with subjects() as both:
        with dask.config.set({f"ha.scheduler.{line}": False}):
            assert "is turned off in this cell" in refused(await both.ask("alice", op=op))
            assert not refused(await both.ask("root", op=op))
        assert not refused(await both.ask("alice", op=op))


def registration(address: str, server_id: str) -> dict[str, Any]:
    return {
        **to_op(RegisterWorker(address, server_id, None, Joining(0, Report(), {}))),
        "reply": False,
        "status": "running",
    }


async def test_a_worker_that_is_there_is_not_displaced_by_a_claim_to_its_address() -> None:
    async with subjects() as both:
        (worker,) = both.workers
        future = both.client.submit(int, 7, pure=False)
        assert await future == 7
        stream = worker.batched_stream
        for caller in ("other-node", "node"):
            comm = await both.comm(caller)
            await comm.write(registration(worker.address, "evil"))
            answer = await comm.read()
            assert "another worker answers at" in str(clean_exception(**answer)[1])
            comm.abort()
        assert worker.batched_stream is stream
        assert both.leader.workers[worker.address].server_id == worker.id
        assert await future == 7


async def test_nobody_speaks_for_the_worker_of_another() -> None:
    async with subjects() as both:
        (worker,) = both.workers
        for op, argument in (("unregister", "address"), ("heartbeat_worker", "address")):
            comm = await both.comm("other-node")
            await comm.write({"op": op, argument: worker.address})
            assert "is not of other-node" in refused(await comm.read())
            comm.abort()
        assert worker.address in both.leader.workers


async def test_a_worker_takes_the_place_of_one_that_has_died_at_its_address() -> None:
    async with subjects() as both:
        (worker,) = both.workers
        port = worker.port
        await worker.close(nanny=False)
        again = await both.worker("again", port=port)
        both.workers.append(again)
        assert again.address == worker.address
        assert again.status == Status.running
        assert await both.client.submit(int, 7, pure=False) == 7
