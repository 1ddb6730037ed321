"""What a client or worker must not say: it alone hears so, nothing is recorded, others go on."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from distributed.comm import CommClosedError, connect
from distributed.core import clean_exception, rpc

from client_replay import Client
from ha_scheduler.ledger.records import ClientJoined, ClientLeft
from ha_scheduler.protocol.client import CALL, SEQUENCE, CallId, Hello, OpenCalls
from ha_scheduler.protocol.codec import INT_MAX, tag_of, to_op
from ha_scheduler.protocol.worker import Joining, RegisterWorker, Report
from tests.engine.conftest import Pair, eventually, pair

EVIL = "Client-evil"
HELLO = to_op(Hello("a session", 0, 0))
RESUME = {"op": "ha-resume", "keys": (), "finished": ()}
WORKER = to_op(RegisterWorker("tcp://127.0.0.1:1", "evil", None, Joining(0, Report(), {})))


@asynccontextmanager
async def an_honest_pair() -> AsyncIterator[Pair]:
    """Whatever was said meanwhile, its client is served, by the next leader as well."""
    async with pair(1) as both:
        assert await both.client.submit(int, 41) == 41
        before = len(both.log.records)
        yield both
        assert both.leader.recorder is not None
        both.leader.recorder.flush()
        for record in both.log.records[before:]:
            if isinstance(record, ClientJoined | ClientLeft):
                assert (record.client, getattr(record, "session", "")) == (EVIL, "")
            else:
                assert type(record).__name__ in ("Released", "GraphsRetired"), record
        assert await both.client.submit(int, 42) == 42
        await both.kill_leader()
        await both.take_over()
        assert await both.client.submit(int, 43) == 43


async def told(both: Pair, *said: Any, client: Any = EVIL) -> list[dict[str, Any]]:
    """All that the leader says to a client which says this, until it hangs up."""
    comm = await connect(both.leader.address)
    messages: list[dict[str, Any]] = []
    try:
        await comm.write(
            {"op": "register-client", "client": client, "reply": False, "versions": {}}
        )
        answer = await comm.read()
        if isinstance(answer, dict):
            messages.append(answer)
        else:
            await comm.write(list(said))
        while True:
            answer = await comm.read()
            messages += answer if isinstance(answer, (list, tuple)) else [answer]
    except CommClosedError:
        return messages
    finally:
        comm.abort()


def refusal(messages: list[dict[str, Any]]) -> str:
    """The error, as upstream's client raises it."""
    (error,) = [message for message in messages if "error" in message.get("status", "")]
    return str(clean_exception(**error)[1])


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({**HELLO, "session": 5}, r"ha-hello: .*session"),
        ({**HELLO, "session": "s" * 1_000_000}, r"ha-hello: .*session"),
        ({**HELLO, "term": -1}, r"ha-hello: .*term"),
        ({**HELLO, "floor": INT_MAX + 1}, r"ha-hello: .*floor"),
        ({"op": "ha-hello", "session": "s", "term": 0}, r"ha-hello: .*missing.*floor"),
        ({**RESUME, "keys": 5}, r"ha-resume: .*keys"),
        ({**RESUME, "heard": [None]}, r"ha-resume: .*heard"),
        ({"op": "ha-heard", "numbers": ["one"]}, r"ha-heard: .*numbers"),
        ({"op": "ha-fire-and-forget", "keys": ["x"]}, r"ha-fire-and-forget: .*ha_sequence"),
        ({"op": "cancel-keys", "keys": ["x"], SEQUENCE: -1}, r"request: .*ha_sequence"),
        ({"op": "update-graph", SEQUENCE: "1"}, r"request: .*ha_sequence"),
        ({"op": "client-desires-keys", "keys": ["x"], "client": 5}, r"request: .*client"),
        ({"op": "ha-news", "from": "a newer release"}, r"no message 'ha-news'"),
        ({"op": ["ha-hello"]}, r"a map with an op"),
        ("hello", r"a map with an op"),
    ],
)
async def test_a_malformed_message_is_refused_and_with_it_what_came_with_it(
    said: Any, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with an_honest_pair() as both:
        subscribe = {"op": "subscribe-topic", "topic": "t"}
        assert re.search(error, refusal(await told(both, subscribe, said)))
        assert not both.leader._broker._topics["t"].subscribers
    (line,) = [r for r in caplog.records if getattr(r, "action", "") == "message_refused"]
    assert re.search(error, line.getMessage())


@pytest.mark.parametrize("client", [5, None, b"Client-evil", "c" * 1_000_000])
async def test_a_client_without_a_proper_name_is_not_registered(client: Any) -> None:
    async with an_honest_pair() as both:
        assert re.search(r"register-client: .*client", refusal(await told(both, client=client)))
        assert client not in both.leader.clients


async def test_a_field_of_a_newer_release_is_ignored() -> None:
    async with pair(1) as both:
        comm = await connect(both.leader.address)
        await comm.write({"op": "register-client", "client": EVIL, "reply": False, "versions": {}})
        await comm.read()
        await comm.write([{**HELLO, "of a newer release": True}])
        (welcome,) = await comm.read()
        assert welcome["op"] == "ha-welcome"
        comm.abort()


OPEN = {"session": "a session", "owner": "evil"}
CALL_ID = to_op(CallId("a session", 0, 1))


@pytest.mark.parametrize(
    ("op", "arguments", "error"),
    [
        ("event_set", {"name": "e", CALL: {**CALL_ID, "slot": -1}}, "ha-call: .*slot"),
        ("event_set", {"name": "e", CALL: {**CALL_ID, "session": 5}}, "ha-call: .*session"),
        ("event_set", {"name": "e", CALL: ["a session", 0, 1]}, "ha-call: .*array"),
        (tag_of(OpenCalls), {**OPEN, "session": 5}, "ha-open-calls: .*session"),
        (tag_of(OpenCalls), {**OPEN, "owner": None}, "ha-open-calls: .*owner"),
        ("update_data", {"who_has": {"x": []}, "nbytes": {"x": 1}, "client": 5}, "client"),
        ("scatter", {"data": {}, "workers": None, "client": 5}, "client"),
    ],
)
async def test_a_malformed_call_is_answered_with_an_error(
    op: str, arguments: dict[str, Any], error: str
) -> None:
    async with an_honest_pair() as both, rpc(both.leader.address) as leader:
        with pytest.raises(Exception, match=error):
            await getattr(leader, op)(**arguments)
        assert not list(both.leader.sessions.calls)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"address": 5}, r"ha-register-worker: .*address"),
        ({"nanny": 5}, r"ha-register-worker: .*nanny"),
        ({"server_id": b"evil"}, r"ha-register-worker: .*server_id"),
        ({"ha": None}, r"ha-register-worker: .*ha"),
        ({"ha": (-1, (), {})}, r"ha-register-worker: .*ha\[0\]"),
        ({"ha": (0, ((), (), (("x", "no bytes", 1),)), {})}, r"ha-register-worker: .*ha\[1\]\[2\]"),
        ({"op": "register-worker", "nanny": 5}, r"register-worker: .*nanny"),
    ],
)
async def test_a_malformed_registration_of_a_worker_is_refused(
    said: dict[str, Any], error: str
) -> None:
    async with an_honest_pair() as both:
        comm = await connect(both.leader.address)
        await comm.write({**WORKER, "reply": False, "status": "running", **said})
        answer = await comm.read()
        assert answer["status"] == "error"
        assert re.search(error, answer["message"])
        assert len(both.leader.workers) == 1
        comm.abort()


async def test_a_client_that_is_refused_says_so_and_closes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair(1) as both:
        client = await Client(both.address, asynchronous=True, set_as_default=False)
        with caplog.at_level(logging.ERROR, logger="distributed.client.ha"):
            client.scheduler_comm.send({"op": "ha-news"})
            await eventually(lambda: client.status == "closed")
        assert any("no message 'ha-news'" in record.getMessage() for record in caplog.records)
        assert await both.client.submit(int, 42) == 42
