"""A stream is of who registered for it, and a call for a client of the client itself."""

from __future__ import annotations

import re
from typing import Any

import pytest
from distributed.comm import CommClosedError, connect
from distributed.core import rpc
from distributed.protocol.serialize import to_serialize

from ha_scheduler.protocol.client import Hello, Resume
from ha_scheduler.protocol.codec import to_op
from ha_scheduler.security.permissions import ADDED, Party, Surface, permitted
from tests.engine.conftest import KeptLog, Pair, eventually, leading, pair
from tests.engine.test_refusals import EVIL, refusal, told


async def honest(both: Pair) -> Any:
    """A result that the honest client holds, and what nobody else may change of it."""
    future = both.client.submit(int, 7, pure=False, key="held")
    assert await future == 7
    both.stream = both.client.scheduler_comm  # type: ignore[attr-defined]
    return future


async def unharmed(both: Pair, future: Any) -> None:
    assert both.client.scheduler_comm is both.stream  # type: ignore[attr-defined]
    assert both.client.id in both.leader.clients
    assert future.status == "finished"
    assert await future == 7
    assert await both.client.submit(int, 8, pure=False) == 8
    assert len(both.client._ha.journal) == 0


def session(both: Pair) -> str:
    return both.client._ha.id


@pytest.mark.parametrize(
    "said",
    [
        {"op": "client-releases-keys", "keys": ["held"]},
        {"op": "client-desires-keys", "keys": ["held"]},
        {"op": "cancel-keys", "keys": ["held"]},
        {"op": "close-client"},
        {"op": "heartbeat-client"},
        {"op": "report-key", "key": "held"},
        {"op": "subscribe-topic", "topic": "t"},
        {"op": "update-graph", "keys": {"x"}, "expr_ser": None},
        {"op": "update-data", "who_has": {}, "nbytes": {}},
    ],
    ids=lambda said: said["op"],
)
async def test_a_message_of_a_stream_that_names_another_client_is_refused(said: Any) -> None:
    async with pair(1) as both:
        future = await honest(both)
        messages = await told(both, {**said, "client": both.client.id})
        assert re.search(f"{said['op']}: this is the stream of {EVIL}", refusal(messages))
        await unharmed(both, future)


OF_CLIENTS = permitted(Surface.STREAM, Party.CLIENT) - {ADDED}
OF_WORKERS = permitted(Surface.STREAM, Party.WORKER) - {ADDED}


@pytest.mark.parametrize("op", sorted(OF_WORKERS - OF_CLIENTS))
async def test_a_client_sends_nothing_that_only_a_worker_does(op: str) -> None:
    async with pair(1) as both:
        future = await honest(both)
        message = {"op": op, "key": "held", "worker": both.workers[0].address, "stimulus_id": "s"}
        assert re.search("there is no message", refusal(await told(both, message)))
        await unharmed(both, future)


async def test_a_session_is_taken_by_nobody_who_knows_it_either() -> None:
    async with pair(1) as both:
        future = await honest(both)
        messages = await told(both, to_op(Hello(session(both), 0, 2**40)))
        assert re.search("the session is not that of", refusal(messages))
        await unharmed(both, future)


async def test_nobody_drops_the_work_of_a_session_that_is_still_to_come() -> None:
    """By a floor that it has not reached: not even one who knows the session."""
    async with pair(1) as both:
        future = await honest(both)
        comm = await connect(both.leader.address)
        registration = {"op": "register-client", "client": both.client.id, "versions": {}}
        await comm.write({**registration, "reply": False})
        await comm.read()
        await comm.write([to_op(Hello(session(both), 0, 2**40))])
        assert "error" in (await comm.read())["status"]
        await unharmed(both, future)


@pytest.mark.parametrize(
    "said",
    [
        [to_op(Hello("another", 0, 0))],
        [to_op(Resume((), ()))],
        [{"op": "close-client"}],
        {"op": "close-client"},
        [],
        "close-client",
        [7],
    ],
)
async def test_who_registers_as_a_client_with_a_session_has_to_know_it(said: Any) -> None:
    async with pair(1) as both:
        future = await honest(both)
        comm = await connect(both.leader.address)
        registration = {"op": "register-client", "client": both.client.id, "versions": {}}
        await comm.write({**registration, "reply": False})
        assert (await comm.read())[0]["op"] == "stream-start"
        await comm.write(said)
        assert "error" in (await comm.read())["status"]
        with pytest.raises(CommClosedError):
            await comm.read()
        await unharmed(both, future)


@pytest.mark.parametrize("name", ["queue-q", "variable-v", "published-d", "fire-and-forget"])
async def test_nobody_registers_as_one_of_dasks_own_clients(name: str) -> None:
    async with pair(1) as both:
        assert re.search("a name of Dask's own", refusal(await told(both, client=name)))
        assert name not in both.leader.client_comms


async def test_a_call_for_a_client_is_made_by_it_alone() -> None:
    async with pair(1) as both, rpc(both.leader.address) as leader:
        future = await honest(both)
        for proof in ({}, {"ha_session": "guessed"}, {"ha_session": 5}):
            named = {"client": both.client.id, **proof}
            for call in (
                lambda named=named: leader.retry(keys=["held"], **named),
                lambda named=named: leader.update_data(who_has={}, nbytes={}, **named),
                lambda named=named: leader.scatter(
                    data={"evil": to_serialize(1)}, workers=None, **named
                ),
            ):
                with pytest.raises(Exception, match=r"only .* itself may|ha_session"):
                    await call()
        assert "evil" not in both.leader.tasks
        (scattered,) = await both.client.scatter([5])
        assert await scattered == 5
        await unharmed(both, future)


async def test_calls_for_a_client_go_on_under_the_next_leader() -> None:
    async with pair(1) as both:
        future = await honest(both)
        await both.kill_leader()
        await both.take_over()
        (scattered,) = await both.client.scatter([5])
        assert await scattered == 5
        assert await future == 7


async def test_a_worker_that_names_another_worker_loses_its_stream_and_joins_again() -> None:
    async with pair(2) as both:
        liar, other = both.workers
        future = both.client.submit(int, 7, workers=[other.address], pure=False)
        assert await future == 7
        stream = liar.batched_stream
        liar.batched_send(
            {
                "op": "release-worker-data",
                "key": future.key,
                "worker": other.address,
                "stimulus_id": "s",
            }
        )
        await eventually(lambda: liar.batched_stream is not stream)
        await eventually(lambda: len(both.leader.workers) == 2)
        assert [ws.address for ws in both.leader.tasks[future.key].who_has] == [other.address]


async def test_an_unmodified_client_and_worker_are_served_as_ever() -> None:
    async with leading(KeptLog(), workers=1) as (_, client, _):
        assert await client.submit(int, 5) == 5
        (scattered,) = await client.scatter([6])
        assert await scattered == 6
        assert await client.gather(client.map(int, [1, 2])) == [1, 2]


def test_every_message_of_a_stream_is_a_workers_or_a_clients() -> None:
    """A new one of upstream's has to have its row."""
    import inspect

    from distributed import Scheduler

    source = inspect.getsource(Scheduler.__init__)
    for lists, known in (
        ("worker_handlers", OF_WORKERS),
        ("client_handlers", OF_CLIENTS),
    ):
        body = source.partition(f"{lists} = {{")[2].partition("}")[0]
        names = set(re.findall(r'"([a-z-]+)":', body))
        assert names
        assert names <= known
