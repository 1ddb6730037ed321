"""What an engine asks of workers and nannies by itself waits for the lease, as its answers do.

A leader that froze in the midst of such an operation finds its lease over when it wakes up. What it
then still wanted to delete or to restart, another leader may be relying on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from distributed import Nanny
from distributed.comm import connect
from distributed.core import Server, Status, rpc

from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.engine.workers.status_subscribers import StatusSubscriber
from tests.engine.conftest import KeptLog, end, eventually


class Switch:
    """A lease that a test holds."""

    def __init__(self) -> None:
        self.on = True
        self.asked = 0  # times that somebody found it over

    def valid(self) -> bool:
        self.asked += not self.on
        return self.on


class Recipient(Server):  # type: ignore[misc]
    """A worker or a nanny, of which a test sees what it is asked to do."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(
            {op: self._noting(op) for op in ("free_keys", "gather", "kill", "run", "identity")}
        )

    def _noting(self, op: str) -> Callable[..., Any]:
        def note(**kwargs: Any) -> Any:
            self.asked.append(op)
            return {"status": "OK"} if op != "kill" else None

        return note


@asynccontextmanager
async def leader_and_recipient() -> AsyncIterator[tuple[Scheduler, Switch, Recipient]]:
    switch = Switch()
    scheduler = Scheduler(
        host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0", lease=switch
    )
    await scheduler.activate(1, KeptLog(), lambda phase, detail: None)
    recipient = Recipient()
    await recipient.listen("tcp://127.0.0.1:0")
    recipient.status = Status.running
    try:
        yield scheduler, switch, recipient
    finally:
        await recipient.close()
        await end(scheduler)


Call = Callable[[Scheduler, str], Coroutine[Any, Any, Any]]


def delete(scheduler: Scheduler, address: str) -> Coroutine[Any, Any, Any]:
    """What ``rebalance`` and ``replicate`` end with."""
    return scheduler.delete_worker_data(address, ["key"], "test")  # type: ignore[no-any-return]


def gather(scheduler: Scheduler, address: str) -> Coroutine[Any, Any, Any]:
    """What they begin with."""
    return scheduler.gather_on_worker(address, {"key": ["tcp://127.0.0.1:1"]})  # type: ignore[no-any-return]


def broadcast(scheduler: Scheduler, address: str) -> Coroutine[Any, Any, Any]:
    """``Client.run``, calls of actors through the scheduler, and the registration of plugins."""
    return scheduler.broadcast(msg={"op": "run"}, workers=[address])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("call", "op"), [(delete, "free_keys"), (gather, "gather"), (broadcast, "run")]
)
async def test_a_call_is_not_sent_while_leadership_is_uncertain(call: Call, op: str) -> None:
    async with leader_and_recipient() as (scheduler, switch, recipient):
        await scheduler.rpc(recipient.address).identity()  # the connection is there already
        recipient.asked.clear()
        switch.on = False
        calling = asyncio.ensure_future(call(scheduler, recipient.address))
        await eventually(lambda: switch.asked > 5)
        assert recipient.asked == []
        switch.on = True
        await calling
        assert recipient.asked == [op]


@pytest.mark.parametrize(("key", "error"), [("there", None), ("not-there", KeyError)])
async def test_a_call_is_not_answered_while_leadership_is_uncertain(
    key: str, error: type[Exception] | None
) -> None:
    """Be it by an error: another leader may know better."""
    async with leader_and_recipient() as (scheduler, switch, _), rpc(scheduler.address) as caller:
        scheduler.set_metadata(["there"], 1)
        switch.on = False
        asking = asyncio.ensure_future(caller.get_metadata(keys=[key]))
        await eventually(lambda: switch.asked > 5 or asking.done())
        assert not asking.done()
        switch.on = True
        if error is None:
            assert await asking == 1
        else:
            with pytest.raises(error):
                await asking


async def test_a_cluster_is_told_of_no_worker_while_leadership_is_uncertain() -> None:
    async with leader_and_recipient() as (scheduler, switch, _):
        cluster = await connect(scheduler.address)
        await cluster.write({"op": "subscribe_worker_status"})
        await cluster.read()
        switch.on = False
        for plugin in scheduler.plugins.values():
            if isinstance(plugin, StatusSubscriber):
                plugin.remove_worker(scheduler, "tcp://gone")
        reading = asyncio.ensure_future(cluster.read())
        await eventually(lambda: switch.asked > 5 or reading.done())
        assert not reading.done()
        switch.on = True
        assert await reading == (("remove", "tcp://gone"),)
        await cluster.close()


async def test_a_nanny_is_not_told_to_kill_while_leadership_is_uncertain() -> None:
    async with (
        leader_and_recipient() as (scheduler, switch, recipient),
        Nanny(scheduler.address, nthreads=1, dashboard_address=":0") as nanny,
    ):
        await eventually(lambda: len(scheduler.workers) == 1)
        (ws,) = scheduler.workers.values()
        ws.nanny = recipient.address
        pid = nanny.pid
        switch.on = False
        restarting = asyncio.ensure_future(
            scheduler.restart_workers(wait_for_workers=False, stimulus_id="test")
        )
        await eventually(lambda: switch.asked > 5)
        assert recipient.asked == []
        switch.on = True
        assert await restarting == {ws.address: "OK"}
        assert recipient.asked == ["kill"]
        assert nanny.pid == pid


async def test_a_comm_goes_back_to_its_pool() -> None:
    async with leader_and_recipient() as (scheduler, _, recipient):
        for _ in range(3):
            await scheduler.rpc(recipient.address).identity()
        assert scheduler.rpc.open == 1
        assert scheduler.rpc.active == 0
