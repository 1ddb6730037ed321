"""The engine's feed: in order, each entry once, at once while the engine keeps up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ha_scheduler.peer.feed import CommittedTail, Feed
from ha_scheduler.protocol.engine import CaughtUp, RecordCommitted, ToEngine
from ha_scheduler.raft.messages import Entry, EntryKind
from tests.twins.store import MemoryStore


async def turns() -> None:
    """Some turns of the loop: more than any step here takes."""
    for _ in range(10):
        await asyncio.sleep(0)


class Taker:
    """The daemon's end of an engine, which takes what it is sent or, when told so, does not."""

    def __init__(self) -> None:
        self.alive = True
        self.writable = True
        self.sent: list[ToEngine] = []
        self.taken = asyncio.Event()

    def send(self, *batch: ToEngine) -> None:
        self.sent += batch

    async def drain(self) -> None:
        if not self.writable:
            await self.taken.wait()

    def kill(self, why: str) -> None:
        raise AssertionError(why)

    def indices(self) -> list[int]:
        return [message.index for message in self.sent if isinstance(message, RecordCommitted)]


@asynccontextmanager
async def fed() -> AsyncIterator[tuple[Any, CommittedTail, Feed]]:
    """An engine that has caught up with an empty ledger."""
    store = MemoryStore(on_durable=lambda number, error: None)
    engine: Any = Taker()
    tail = CommittedTail(store, 0)
    feed = Feed(engine, store, tail, lambda entry: 0)
    task = asyncio.create_task(feed.run())
    await turns()
    assert any(isinstance(message, CaughtUp) for message in engine.sent)
    yield engine, tail, feed
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def entries(*indices: int) -> list[Entry]:
    return [Entry(1, index, EntryKind.NORMAL, b"record") for index in indices]


async def test_an_engine_that_keeps_up_is_sent_a_commit_in_the_same_step() -> None:
    async with fed() as (engine, tail, feed):
        tail.append(entries(1))
        assert engine.indices() == [1], "without a turn of the loop"
        tail.append(entries(2, 3))
        assert engine.indices() == [1, 2, 3]
        assert feed.cursor == 3


async def test_an_engine_that_takes_nothing_is_sent_the_rest_when_it_does() -> None:
    async with fed() as (engine, tail, _):
        engine.writable = False
        tail.append(entries(1))
        tail.append(entries(2))
        await turns()
        assert engine.indices() == [], "the log is the queue"
        engine.writable = True
        engine.taken.set()
        await turns()
        assert engine.indices() == [1, 2]
        tail.append(entries(3))
        await turns()
        assert engine.indices() == [1, 2, 3]


async def test_an_engine_that_ended_is_sent_nothing_more() -> None:
    async with fed() as (engine, tail, _):
        engine.alive = False
        tail.append(entries(1))
        await turns()
        assert engine.indices() == []
