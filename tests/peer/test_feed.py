"""The engine's feed: in order, each entry once, at once while the engine keeps up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from ha_scheduler.ledger.calls import pack_payload
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.records import Called, Desired, GraphSubmitted, ValueSet
from ha_scheduler.ledger.rejections import REJECTED_MAX
from ha_scheduler.peer.engine.feed import PROBE_BYTES, CommittedTail, Feed
from ha_scheduler.peer.engine.supervisor import Engine
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.engine import Activate, CaughtUp, Pong, RecordCommitted, ToEngine
from ha_scheduler.raft.messages import Entry, EntryKind
from ha_scheduler.storage.port import WriteBatch
from tests.twins.store import MemoryStore


async def turns() -> None:
    """Some turns of the loop: more than any step here takes."""
    for _ in range(10):
        await asyncio.sleep(0)


class Taker:
    """The daemon's end of an engine, which takes what it is sent or, when told so, does not."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.alive = True
        self.writable = True
        self.sent: list[ToEngine] = []
        self.taken = asyncio.Event()
        self.killed = ""
        self.fed = 0
        self.pings: list[int] = []  # what it was sent before each

    def ping(self) -> None:
        self.pings.append(self.fed)

    def send(self, *batch: ToEngine) -> None:
        self.sent += batch

    async def drain(self) -> None:
        if not self.writable:
            await self.taken.wait()

    def kill(self, why: str) -> None:
        self.alive, self.killed = False, why

    def indices(self) -> list[int]:
        return [message.index for message in self.sent if isinstance(message, RecordCommitted)]


@asynccontextmanager
async def fed(
    number_of: Callable[[Entry], int] = lambda entry: 0,
) -> AsyncIterator[tuple[Any, CommittedTail, Feed]]:
    """An engine that has caught up with an empty ledger."""
    store = MemoryStore(on_durable=lambda number, error: None)
    engine: Any = Taker(store)
    tail = CommittedTail(store, 0)
    feed = Feed(engine, store, tail, number_of)
    task = asyncio.create_task(feed.run())
    await turns()
    assert any(isinstance(message, CaughtUp) for message in engine.sent)
    yield engine, tail, feed
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


CERTAIN = encode(Desired(0, "c", (b"k",)))  # whatever the ledger holds
VALUE = encode(ValueSet("v", b"n", b"", 0, 0, 1))  # with all of it
CALL = encode(Called("s", 0, 1, pack_payload((VALUE,), b"answer"), 0, 0, 1))
GRAPH = encode(GraphSubmitted(1 << 32 | 1, "c", "", 0, b"x", 0, 0))  # could be known
WITHOUT_PARTS = encode(ValueSet("v", b"n", b"", 7, 1, 1))


def entries(*indices: int, data: bytes = CERTAIN) -> list[Entry]:
    return [Entry(1, index, EntryKind.NORMAL, data) for index in indices]


def applied(store: MemoryStore, tail: CommittedTail, number: int, *log: Entry) -> None:
    """The store has applied these, and the daemon knows."""
    store.submit(WriteBatch(number, entries=log, apply=log))
    store.settle(number)
    tail.applied(log[-1].index)


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


async def test_what_is_due_after_an_entry_comes_right_after_it() -> None:
    async with fed() as (engine, tail, feed):
        feed.send_after(2, Activate(7))
        tail.append(entries(1))
        assert engine.indices() == [1]
        assert Activate(7) not in engine.sent
        tail.append(entries(2, 3))
        last = [getattr(message, "index", message) for message in engine.sent[-3:]]
        assert last == [2, Activate(7), 3]


async def test_an_engine_that_ended_is_sent_nothing_more() -> None:
    async with fed() as (engine, tail, _):
        engine.alive = False
        tail.append(entries(1))
        await turns()
        assert engine.indices() == []


async def test_what_the_fold_might_reject_is_told_when_it_is_applied_and_holds_back_the_rest() -> (
    None
):
    async with fed() as (engine, tail, feed):
        tail.append([*entries(1), *entries(2, data=GRAPH), *entries(3)])
        await turns()
        assert engine.indices() == [1]
        log = [*entries(1), *entries(2, data=GRAPH), *entries(3)]
        applied(engine.store, tail, 1, *log)
        assert engine.indices() == [1, 2, 3], "without a turn of the loop"
        assert feed.cursor == 3


async def test_an_engine_is_never_told_of_what_the_fold_rejected() -> None:
    async with fed() as (engine, tail, feed):
        log = [*entries(1, data=b"junk"), *entries(2, data=WITHOUT_PARTS), *entries(3)]
        tail.append(log)
        await turns()
        assert engine.indices() == []
        applied(engine.store, tail, 1, *log)
        assert engine.indices() == [3]
        assert feed.cursor == 3
        assert engine.store.rejections().count == 2


async def test_an_author_hears_that_its_record_is_done_when_the_fold_has_taken_it() -> None:
    async with fed(lambda entry: entry.index) as (engine, tail, _):
        log = [*entries(1, data=GRAPH), *entries(2)]
        tail.append(log)
        await turns()
        assert engine.indices() == []
        applied(engine.store, tail, 1, *log)
        assert [(done.index, done.proposal) for done in engine.sent[-2:]] == [(1, 1), (2, 2)]


async def test_an_author_never_hears_that_a_rejected_record_of_its_own_is_done() -> None:
    async with fed(lambda entry: entry.index) as (engine, tail, feed):
        log = [*entries(1, data=WITHOUT_PARTS), *entries(2)]
        tail.append(log)
        await turns()
        assert engine.indices() == []
        applied(engine.store, tail, 1, *log)
        assert engine.indices() == [2]
        assert feed.cursor == 2


async def test_a_call_and_a_value_that_travel_whole_are_told_in_the_same_step() -> None:
    async with fed() as (engine, tail, _):
        tail.append([*entries(1, data=VALUE), *entries(2, data=CALL)])
        assert engine.indices() == [1, 2], "without a turn of the loop"


async def test_an_engine_that_reads_on_past_forgotten_rejections_is_started_afresh() -> None:
    async with fed() as (engine, tail, _):
        log = entries(*range(1, REJECTED_MAX + 3), data=b"junk")
        tail.append(log)
        applied(engine.store, tail, 1, *log)
        await turns()
        assert engine.indices() == []
        assert engine.killed.startswith("it is too far behind to be fed")


async def test_an_engine_is_asked_at_once_how_far_it_is_after_much_to_replay() -> None:
    async with fed() as (engine, tail, _):
        tail.append(entries(1))
        asked = len(engine.pings)
        large = encode(Desired(0, "c", (b"k" * PROBE_BYTES,)))
        tail.append(entries(2, data=large))
        assert engine.pings[asked:] == [2]


def test_an_engine_has_replayed_what_it_was_sent_before_the_ping_that_it_answers() -> None:
    nothing: Any = SimpleNamespace()
    engine = Engine(nothing, nothing, nothing)
    engine._accepted = True
    for fed in (5, 9, 9):
        engine.fed = fed
        engine.ping()
    assert engine.replayed == 0
    engine.data_received(frames.pack(Pong(1)))
    assert engine.replayed == 5
    engine.fed = 20
    engine.data_received(frames.pack(Pong(3)))
    assert engine.replayed == 9
