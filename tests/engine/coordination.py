"""A leader whose handlers a test calls straight: which calls commit, which answer was lost.

What happens between a call and its repetition is the test's to say. A leader that takes over has
followed the log, or was started on the ledger to which the log folds.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import pytest
from dask._expr import LLGExpr
from dask._task_spec import convert_legacy_graph
from distributed.protocol import serialize
from distributed.protocol.serialize import Serialized
from distributed.scheduler import ClientState

from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.engine.stream.calls import SESSION_IDLE_SECONDS
from ha_scheduler.engine.stream.keys import decode_key
from ha_scheduler.ledger.encoding import decode, encode
from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.records import ClientJoined, ValueSet
from ha_scheduler.ledger.tables import VALUES
from ha_scheduler.protocol.client import CALL, CallId, OpenCalls
from ha_scheduler.protocol.codec import to_op
from tests.engine.conftest import KeptLog, end, follow, rebuild
from tests.twins.tables import MemoryTables

Takeover = Callable[[list[Any]], Scheduler]


class Caller:
    """One process: its session and its slots. The same call again is ``repeat``."""

    def __init__(self, cell: Cell, session: str = "s", owner: str = "") -> None:
        self.cell = cell
        self.session = session
        self.owner = owner or session
        self._opened = False
        self._sequences: dict[int, int] = {}
        self._last: dict[int, tuple[str, dict[str, Any]]] = {}

    def call(self, op: str, slot: int = 0, **kwargs: Any) -> asyncio.Task[Any]:
        self.note(op, slot, **kwargs)
        return self.repeat(slot)

    def note(self, op: str, slot: int = 0, **kwargs: Any) -> None:
        """A call that never arrives, unless it is repeated."""
        self._sequences[slot] = self._sequences.get(slot, 0) + 1
        self._last[slot] = (op, kwargs)

    def repeat(self, slot: int = 0, **instead: Any) -> asyncio.Task[Any]:
        """The same call; ``instead``: arguments that are others by now, as what is left of time."""
        op, kwargs = self._last[slot]
        number = to_op(CallId(self.session, slot, self._sequences[slot]))
        arguments = {**kwargs, **instead, CALL: number}
        return asyncio.ensure_future(self._call(self.cell.leader, op, arguments))

    async def _call(self, leader: Scheduler, op: str, arguments: dict[str, Any]) -> Any:
        if not self._opened:
            await self.open()
        return await leader.handlers[op](**arguments)

    async def open(self) -> None:
        """Open the session, again if need be."""
        message = to_op(OpenCalls(self.session, self.owner))
        await self.cell.leader.handlers[message.pop("op")](**message)
        self._opened = True


class Cell:
    """A leader without workers and clients, and its log."""

    def __init__(self, successor: Takeover) -> None:
        self.log = KeptLog()
        self.term = 0
        self.leader = follow([])
        self._successor = successor
        self._former: list[Scheduler] = []

    def ask(self, op: str, **kwargs: Any) -> Awaitable[Any]:
        """A call without a number."""
        answer: Awaitable[Any] = self.leader.handlers[op](**kwargs)
        return answer

    async def lead(self) -> None:
        self.term += 1
        await self.leader.activate(self.term, self.log, lambda phase, detail: None)
        await self.leader.recovery.opened()

    async def fail_over(self, lose: int = 0) -> None:
        """The leader dies; its last ``lose`` records had not committed."""
        assert self.leader.recorder is not None
        self.leader.recorder.flush()
        self.leader.recorder = None
        self._former.append(self.leader)
        if lose:
            del self.log.records[-lose:]
        self.leader = self._successor(list(self.log.records))
        self.log.resume()
        await self.lead()

    async def submit(self, dsk: dict[str, Any]) -> None:
        """A graph of a client that has a session, and so may come back."""
        self.leader.clients["Client-test"] = ClientState("Client-test")
        record = ClientJoined("Client-test", "session")
        self.leader.session_of["Client-test"] = "session"
        self.leader.recorder.append(record)
        expr = LLGExpr(convert_legacy_graph(dsk))
        header, frames = serialize(expr)
        await self.leader.update_graph(
            "Client-test",
            Serialized(header, frames),
            keys=set(dsk),
            span_metadata={},
            internal_priority=None,
            submitting_task=None,
        )

    def rows(self, *spaces: str) -> list[Any]:
        """The names of what the ledger has in these spaces."""
        assert self.leader.recorder is not None
        self.leader.recorder.flush()
        tables = MemoryTables()
        for index, record in enumerate(self.log.records, 1):
            assert fold(tables, index, 1, encode(record)) is None
        values = [decode(row) for _, row in tables.scan(VALUES)]
        return [
            decode_key(each.name)
            for each in values
            if isinstance(each, ValueSet) and each.space in spaces
        ]

    def forget_client(self, owner: str) -> None:
        """The client of that session stayed away longer than it may."""
        self.leader.session_of["Client-1"] = owner
        self.leader._restore_or_add("Client-1", {})
        self.leader._record_session(ClientJoined("Client-1", owner))
        self.leader.remove_client("Client-1")

    async def close(self) -> None:
        for scheduler in (self.leader, *self._former):
            await end(scheduler)


def forget_silent(own: Cell, owner: str) -> None:
    """Nothing was heard of it for longer than a caller repeats a call."""
    calls = own.leader.calls
    calls._heard = {session: at - SESSION_IDLE_SECONDS - 1 for session, at in calls._heard.items()}
    calls._sweep()


@asynccontextmanager
async def cell(successor: Takeover = follow) -> AsyncIterator[Cell]:
    made = Cell(successor)
    await made.lead()
    try:
        yield made
    finally:
        await made.close()


Test = Callable[..., Awaitable[None]]


def _in_cells(*successors: Takeover) -> Callable[[Test], Test]:
    """Give a test a cell of its own as ``own``, once for each way to take over."""

    def decorate(test: Test) -> Test:
        @wraps(test)
        async def in_its_cell(successor: Takeover, **others: Any) -> None:
            async with cell(successor) as own:
                await test(own, **others)

        own, *others = inspect.signature(test).parameters.values()
        assert own.name == "own"
        given = own.replace(name="successor")
        in_its_cell.__signature__ = inspect.Signature([given, *others])  # type: ignore[attr-defined]
        return pytest.mark.parametrize("successor", successors)(in_its_cell)

    return decorate


in_a_cell = _in_cells(follow)
in_a_rebuilt_cell = _in_cells(rebuild)
in_every_cell = _in_cells(follow, rebuild)


def value(name: str, data: Any) -> dict[str, Any]:
    return {"name": name, "data": data}


def lease(name: str, lease_id: str, **kwargs: Any) -> dict[str, Any]:
    return {"name": name, "lease_id": lease_id, **kwargs}


async def queue(caller: Caller, *items: Any, **kwargs: Any) -> None:
    """The queue "q" with these items, opened by the caller."""
    await caller.call("queue_create", name="q", **kwargs)
    for item in items:
        await caller.call("queue_put", **value("q", item))
