"""A task that submits acts for who has submitted it, and a worker's token for nobody else."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from distributed import Event, get_client, worker_client
from distributed.core import clean_exception

from ha_scheduler.ledger.records import GraphSubmitted
from ha_scheduler.protocol.client import Hello
from ha_scheduler.protocol.codec import to_op
from tests.engine.callers import subjects
from tests.engine.conftest import eventually
from tests.engine.test_rights import refused


def submits(key: str) -> int:
    with worker_client() as client:
        return int(client.submit(int, 5, key=key).result())


async def submits_in_the_loop(key: str) -> int:
    return int(await get_client().submit(int, 5, key=key))


def waits_and_submits(key: str) -> int:
    with worker_client() as client:
        first = client.submit(int, 4, key=f"{key}-first").result()
        Event("go").wait()
        return int(first + client.submit(int, 5, key=key).result())


@pytest.mark.parametrize("function", [submits, submits_in_the_loop])
async def test_what_a_task_submits_is_its_submitters(function: Any) -> None:
    async with subjects(workers=2) as both:  # one waits, one works
        bob = await both.client_of("bob")
        for client, name in ((both.client, "alice"), (bob, "bob"), (both.client, "alice")):
            key = f"{name}-{uuid.uuid4().hex}"
            assert await client.submit(function, key, pure=False) == 5
        told = {record.subject for record in both.log.records if isinstance(record, GraphSubmitted)}
        assert told == {"alice", "bob"}
        made = [each for worker in both.workers for each in worker.submitters._clients.items()]
        assert {subject for subject, _ in made} == {"alice", "bob"}
        for subject, client in made:
            assert both.leader.subject_of(client.id) == subject
        await bob.close()


async def test_a_task_goes_on_for_its_submitter_under_the_next_leader() -> None:
    async with subjects() as both:
        future = both.client.submit(waits_and_submits, "inner", pure=False)
        go = await Event("go", client=both.client)
        (worker,) = both.workers
        await eventually(lambda: "inner-first" in both.leader.tasks)
        await eventually(lambda: bool(worker.submitters._clients))
        await both.kill_leader()
        leader = await both.take_over()
        await go.set()
        assert await future == 9
        (client,) = worker.submitters._clients.values()
        assert leader.subject_of(client.id) == "alice"


@pytest.mark.parametrize("task", [None, "nothing", "finished", "of-another"])
async def test_a_workers_token_is_no_clients(task: str | None) -> None:
    async with subjects() as both:
        assert await both.client.submit(int, 1, key="finished") == 1
        go = await Event("go", client=both.client)
        running = both.client.submit(lambda e: e.wait(), go, key="of-another")
        await eventually(lambda: any(ws.processing for ws in both.leader.workers.values()))
        comm = await both.comm("other-node")
        registration = {"op": "register-client", "client": "Client-x", "versions": {}}
        await comm.write({**registration, "reply": False})
        await comm.read()
        await comm.write([to_op(Hello("s", 0, 0, task=task))])
        told = str(clean_exception(**(await comm.read()))[1])
        assert "acts for the submitter of a task that it runs" in told
        assert "Client-x" not in both.leader.clients
        comm.abort()
        await go.set()
        await running


async def test_a_worker_asks_for_what_is_a_clients_only_for_the_submitter_of_its_tasks() -> None:
    async with subjects() as both:
        assert "0 subjects have tasks there" in refused(await both.ask("node", op="run_function"))
        narrow = await both.client_of("carol")
        go = await Event("go", client=both.client)
        running = narrow.submit(lambda e: e.wait(), go)
        await eventually(lambda: any(ws.processing for ws in both.leader.workers.values()))
        answer = await both.ask("node", op="run_function")
        assert "needs the scope run_on_scheduler, which carol" in refused(answer)
        assert "0 subjects" in refused(await both.ask("other-node", op="run_function"))
        await go.set()
        await running
        await narrow.close()
