"""What a leader of the past orders a worker to do is not done."""

from __future__ import annotations

from typing import Any

import pytest
from distributed import Security
from distributed.comm import connect, listen
from distributed.core import Status, send_recv
from distributed.protocol.pickle import dumps

from ha_scheduler.comm.preamble import INTRODUCTION
from ha_scheduler.protocol.introduction import Kind, introduce
from ha_scheduler.worker.orders import term_of
from ha_scheduler.worker.registration import StaleLeader
from tests.worker.scripted_leader import ScriptedLeader
from tests.worker.test_link import joined, put

pytestmark = pytest.mark.filterwarnings("default")

ran: list[int] = []


def run_here() -> None:
    ran.append(1)


ORDERS: dict[str, dict[str, Any]] = {
    "free_keys": {"keys": ["x"], "stimulus_id": "test"},
    "run": {"function": dumps(run_here)},
    "plugin-add": {"plugin": dumps(object()), "name": "p"},
    "gather": {"who_has": {"x": ["tcp://127.0.0.1:1"]}},
    "terminate": {"reason": "test"},
}


async def order(address: str, kind: Kind, term: int, op: str, **arguments: Any) -> Any:
    """Ask as an engine of ``term``, or as somebody else, does."""
    comm = await connect(address, **{INTRODUCTION: introduce(kind, term=term)})
    try:
        return await send_recv(comm, op=op, **arguments)
    finally:
        comm.abort()


@pytest.mark.parametrize("op", ORDERS)
async def test_an_order_of_an_older_term_is_refused_and_not_done(op: str) -> None:
    ran.clear()
    leader = await ScriptedLeader(term=2).open()
    async with joined(leader) as worker:
        put(worker, x=1)
        with pytest.raises(StaleLeader, match="of term 1, and 2 has been seen"):
            await order(worker.address, Kind.ENGINE, 1, op, **ORDERS[op])
        assert dict(worker.data) == {"x": 1}
        assert not ran
        assert "p" not in worker.plugins
        assert worker.status is Status.running
    await leader.die()


@pytest.mark.parametrize(("kind", "term"), [(Kind.ENGINE, 2), (Kind.ENGINE, 3), (Kind.CLIENT, 0)])
async def test_the_present_leader_and_others_are_obeyed(kind: Kind, term: int) -> None:
    ran.clear()
    leader = await ScriptedLeader(term=2).open()
    async with joined(leader) as worker:
        answer = await order(worker.address, kind, term, "run", **ORDERS["run"])
        assert answer["status"] == "OK", answer
        assert ran == [1]
        assert worker._ha.follower.fence.term == 2, "a caller's word raises no fence"
    await leader.die()


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_the_term_of_an_engine_is_that_of_its_connection(scheme: str) -> None:
    security = Security.temporary() if scheme == "tls" else Security()
    seen: list[int | None] = []

    async def note(comm: Any) -> None:
        seen.append(term_of(comm))
        await comm.write("noted")

    async with listen(
        f"{scheme}://127.0.0.1:0", note, **security.get_listen_args("worker")
    ) as listener:
        for introduction in (introduce(Kind.ENGINE, term=7), introduce(Kind.WORKER, term=7), None):
            arguments = security.get_connection_args("scheduler")
            comm = await connect(
                listener.contact_address, **arguments, **{INTRODUCTION: introduction}
            )
            assert await comm.read() == "noted"
            comm.abort()
    assert seen == [7, None, None]
