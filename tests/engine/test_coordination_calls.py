"""A numbered call is done once and answered alike, whichever leader it reaches, and how often.

Method: the calls go straight into the handlers of a leading scheduler, so that a test decides which
of them commit, which answer was lost, and what happens between a call and its repetition. A leader
that takes over has followed the log, or was started on the ledger to which the log folds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from dask._expr import LLGExpr
from dask._task_spec import convert_legacy_graph
from distributed.core import Status
from distributed.protocol import serialize
from distributed.protocol.serialize import Serialized
from distributed.scheduler import ClientState

from client_replay.rpc import EXPIRED as EXPIRED_TO_THE_CLIENT
from client_replay.rpc import NUMBERED
from ha_scheduler.engine.coordination import OPERATIONS, topics
from ha_scheduler.engine.coordination.calls import EXPIRED, SESSION_IDLE_SECONDS
from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.ledger.records import Called, CallsEnded, ClientJoined, ClientLeft
from tests.engine.conftest import KeptLog, end, eventually, follow, rebuild, run

Takeover = Callable[[list[Any]], Scheduler]
every_takeover = pytest.mark.parametrize("successor", [follow, rebuild])


class Caller:
    """One process: its session and its slots. The same call again is ``repeat``."""

    def __init__(self, cell: Cell, session: str = "s") -> None:
        self.cell = cell
        self.session = session
        self.known = False
        self._sequences: dict[int, int] = {}
        self._last: dict[int, tuple[str, dict[str, Any]]] = {}

    def call(self, op: str, slot: int = 0, **kwargs: Any) -> asyncio.Task[Any]:
        self._sequences[slot] = self._sequences.get(slot, 0) + 1
        self._last[slot] = (op, kwargs)
        return self.repeat(slot)

    def repeat(self, slot: int = 0) -> asyncio.Task[Any]:
        op, kwargs = self._last[slot]
        number = (self.session, slot, self._sequences[slot], self.known)
        handler = self.cell.leader.handlers[op]
        return asyncio.ensure_future(handler(**kwargs, ha_call=number))


class Cell:
    """A leader without workers and clients, and its log."""

    def __init__(self, successor: Takeover) -> None:
        self.log = KeptLog()
        self.term = 0
        self.leader = follow([])
        self._successor = successor
        self._former: list[Scheduler] = []

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

    async def close(self) -> None:
        for scheduler in (self.leader, *self._former):
            await end(scheduler)


@asynccontextmanager
async def cell(successor: Takeover = follow) -> AsyncIterator[Cell]:
    made = Cell(successor)
    await made.lead()
    try:
        yield made
    finally:
        await made.close()


def increment(number: int) -> int:
    return number + 1


def value(name: str, data: Any) -> dict[str, Any]:
    return {"name": name, "data": data}


@every_takeover
def test_a_get_whose_answer_was_lost_gets_the_same_item_again(successor: Takeover) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            caller = Caller(own)
            await caller.call("queue_create", name="q")
            for n in range(3):
                await caller.call("queue_put", **value("q", n))
            first = await caller.call("queue_get", name="q")
            await own.fail_over()
            assert await caller.repeat() == first == {"type": "msgpack", "value": 0}
            assert (await caller.call("queue_get", name="q"))["value"] == 1
            await own.fail_over()
            assert (await caller.repeat())["value"] == 1
            assert await own.leader.handlers["queue_qsize"](name="q") == 1

    run(test)


@every_takeover
@pytest.mark.parametrize("batch", [True, 2])
def test_a_batch_is_got_once(successor: Takeover, batch: Any) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            caller = Caller(own)
            await caller.call("queue_create", name="q")
            for n in range(2):
                await caller.call("queue_put", **value("q", n))
            first = await caller.call("queue_get", name="q", batch=batch)
            assert [item["value"] for item in first] == [0, 1]
            await caller.call("queue_put", slot=1, **value("q", 2))
            await own.fail_over()
            assert list(await caller.repeat()) == first
            assert (await caller.call("queue_get", name="q"))["value"] == 2

    run(test)


def test_a_batch_that_waits_for_more_gives_back_what_it_has_when_its_leader_dies() -> None:
    async def test() -> None:
        async with cell() as own:
            caller, other = Caller(own), Caller(own, "other")
            await caller.call("queue_create", name="q")
            for n in range(2):
                await caller.call("queue_put", **value("q", n))
            caller.call("queue_get", name="q", batch=3)
            await eventually(lambda: own.leader.extensions["queues"].queues["q"].empty())
            await own.fail_over()
            waiting = caller.repeat()
            await other.call("queue_put", **value("q", 2))
            assert [item["value"] for item in await waiting] == [0, 1, 2]

    run(test)


@every_takeover
def test_a_put_is_done_once(successor: Takeover) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            caller = Caller(own)
            await caller.call("queue_create", name="q")
            await caller.call("queue_put", **value("q", "item"))
            await own.fail_over()
            await caller.repeat()
            await caller.repeat()
            assert await own.leader.handlers["queue_qsize"](name="q") == 1

    run(test)


def test_a_put_that_never_committed_is_done_by_the_next_leader() -> None:
    async def test() -> None:
        async with cell() as own:
            caller = Caller(own)
            await caller.call("queue_create", name="q")
            own.log.stall()
            pending = caller.call("queue_put", **value("q", "item"))
            await eventually(lambda: own.log.stalled == 1)
            assert not pending.done(), "nothing is answered before it has committed"
            await own.fail_over(lose=own.log.stalled)
            assert await own.leader.handlers["queue_qsize"](name="q") == 0
            await caller.repeat()
            assert await own.leader.handlers["queue_qsize"](name="q") == 1

    run(test)


def test_a_reader_is_not_told_what_has_not_committed() -> None:
    async def test() -> None:
        async with cell() as own:
            caller, reader = Caller(own), Caller(own, "reader")
            await caller.call("variable_set", **value("v", 1))
            own.log.stall()
            caller.call("variable_set", **value("v", 2))
            await eventually(lambda: own.log.stalled == 1)
            read = reader.call("variable_get", name="v")
            await asyncio.sleep(0.05)
            assert not read.done()
            await own.fail_over(lose=own.log.stalled)
            assert (await reader.repeat())["value"] == 1

    run(test)


@every_takeover
def test_a_repeated_set_does_not_undo_what_was_set_meanwhile(successor: Takeover) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            one, other = Caller(own, "one"), Caller(own, "other")
            await one.call("variable_set", **value("v", 1))
            await one.call("event_set", name="e", slot=1)
            await one.call("set_metadata", keys=["a", "b"], value=1, slot=2)
            await own.fail_over()
            await other.call("variable_set", **value("v", 2))
            await other.call("event_clear", name="e")
            await other.call("set_metadata", keys=["a", "b"], value=2)
            for slot in range(3):
                await one.repeat(slot)
            assert (await other.call("variable_get", name="v"))["value"] == 2
            assert not await other.call("event_is_set", name="e")
            assert await other.call("get_metadata", keys=["a", "b"]) == 2
            await own.fail_over()
            assert (await other.call("variable_get", name="v"))["value"] == 2
            assert await other.call("get_metadata", keys=["a", "b"]) == 2

    run(test)


@every_takeover
def test_a_deleted_variable_stays_deleted(successor: Takeover) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            caller = Caller(own)
            await caller.call("variable_set", **value("v", 1))
            await caller.call("variable_delete", name="v")
            await own.fail_over()
            with pytest.raises(TimeoutError):
                await caller.call("variable_get", name="v", timeout=0.01)

    run(test)


@every_takeover
def test_a_queue_goes_with_the_last_of_its_clients_and_not_before(successor: Takeover) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            caller = Caller(own)
            await caller.call("queue_create", name="q", maxsize=2)
            await caller.call("queue_create", name="q", maxsize=2, slot=1)
            await own.fail_over()
            await caller.repeat(1)
            await caller.call("queue_put", **value("q", 1))
            await caller.call("queue_release", name="q")
            await own.fail_over()
            await caller.repeat()
            assert await own.leader.handlers["queue_qsize"](name="q") == 1
            assert own.leader.extensions["queues"].queues["q"].maxsize == 2
            await caller.call("queue_release", name="q")
            await own.fail_over()
            assert not own.leader.extensions["queues"].queues

    run(test)


@every_takeover
def test_a_queue_that_goes_while_somebody_gathers_a_batch_leaves_no_item_behind(
    successor: Takeover,
) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            caller, other = Caller(own), Caller(own, "other")
            await caller.call("queue_create", name="q")
            for n in range(2):
                await caller.call("queue_put", **value("q", n))
            caller.call("queue_get", name="q", batch=3)
            await eventually(lambda: own.leader.extensions["queues"].queues["q"].empty())
            await other.call("queue_release", name="q")
            await other.call("queue_create", name="q")
            await own.fail_over()
            assert await own.leader.handlers["queue_qsize"](name="q") == 0

    run(test)


def lease(name: str, lease_id: str, **kwargs: Any) -> dict[str, Any]:
    return {"name": name, "lease_id": lease_id, **kwargs}


@every_takeover
def test_a_lease_is_kept_and_dated_anew_at_a_takeover(successor: Takeover) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            caller = Caller(own)
            await caller.call("semaphore_register", name="l", max_leases=1, lease_timeout=0.2)
            assert await own.leader.handlers["semaphore_acquire"](**lease("l", "mine"))
            await asyncio.sleep(0.3)  # longer than a lease lasts; nobody looked meanwhile
            await own.fail_over()
            semaphores = own.leader.extensions["semaphores"]
            semaphores._check_lease_timeout()
            assert await own.leader.handlers["semaphore_value"](name="l") == 1
            assert await own.leader.handlers["semaphore_acquire"](**lease("l", "mine"))
            assert not await own.leader.handlers["semaphore_acquire"](
                **lease("l", "theirs", timeout=0.01)
            )
            await asyncio.sleep(0.3)
            semaphores._check_lease_timeout()
            assert await own.leader.handlers["semaphore_acquire"](**lease("l", "theirs"))
            await own.fail_over()
            assert list(own.leader.extensions["semaphores"].leases["l"]) == ["theirs"]

    run(test)


@every_takeover
def test_a_released_or_closed_semaphore_is_that_afterwards(successor: Takeover) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            caller = Caller(own)
            for name in ("open", "closed"):
                await caller.call("semaphore_register", name=name, max_leases=2, lease_timeout=None)
                await own.leader.handlers["semaphore_acquire"](**lease(name, "a"))
                await own.leader.handlers["semaphore_acquire"](**lease(name, "b"))
            await own.leader.handlers["semaphore_release"](**lease("open", "a"))
            with pytest.warns(RuntimeWarning, match="unreleased"):
                await caller.call("semaphore_close", name="closed")
            await own.fail_over()
            semaphores = own.leader.extensions["semaphores"]
            assert {name: list(ids) for name, ids in semaphores.leases.items()} == {"open": ["b"]}
            assert semaphores.max_leases == {"open": 2}
            with pytest.raises(RuntimeError, match="not known"):
                await own.leader.handlers["semaphore_acquire"](**lease("closed", "c"))

    run(test)


@every_takeover
def test_who_waits_for_several_locks_keeps_the_place_in_line(successor: Takeover) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            callers = {id: Caller(own, id) for id in "abc"}
            ask = {id: {"locks": ["x", "y"], "id": id, "num_locks": 2} for id in callers}
            assert await callers["a"].call("multi_lock_acquire", **ask["a"])
            for id in "bc":
                callers[id].call("multi_lock_acquire", **ask[id])
                await eventually(lambda id=id: id in own.leader.extensions["multi_locks"].requests)
            await own.fail_over()
            assert await callers["a"].repeat()
            waiting = {id: callers[id].repeat() for id in "cb"}  # the other way round
            await callers["a"].call("multi_lock_release", id="a")
            assert await waiting["b"]
            assert not waiting["c"].done()
            await own.fail_over()
            assert await callers["a"].repeat() is None
            waiting["c"] = callers["c"].repeat()
            await callers["b"].call("multi_lock_release", id="b")
            assert await waiting["c"]

    run(test)


def test_a_wait_for_several_locks_ends_in_time() -> None:
    async def test() -> None:
        async with cell() as own:
            one, other = Caller(own, "one"), Caller(own, "other")
            ask = {"locks": ["x"], "num_locks": 1}
            assert await one.call("multi_lock_acquire", id="one", **ask)
            assert await other.call("multi_lock_acquire", id="other", timeout=0.05, **ask) is False
            await own.fail_over()
            assert await other.repeat() is False
            await one.call("multi_lock_release", id="one")
            assert not own.leader.extensions["multi_locks"].requests

    run(test)


@every_takeover
def test_who_waited_when_an_event_was_set_is_let_go_though_it_is_clear_again(
    successor: Takeover,
) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            waiter, other = Caller(own, "waiter"), Caller(own, "other")
            waiter.call("event_wait", name="e")
            await eventually(lambda: bool(own.leader.extensions["events"]._waiters))
            await own.fail_over()
            await other.call("event_set", name="e")
            await other.call("event_clear", name="e")
            assert await waiter.repeat() is True

    run(test)


def test_a_leader_that_set_an_event_and_told_nobody_is_made_up_for() -> None:
    """The record of the flag committed, and that of the waiter's answer did not."""

    async def test() -> None:
        async with cell() as own:
            waiter, other = Caller(own, "waiter"), Caller(own, "other")
            waiter.call("event_wait", name="e")
            await eventually(lambda: bool(own.leader.extensions["events"]._waiters))
            await other.call("event_clear", name="e")
            own.log.stall()
            other.call("event_set", name="e")
            await eventually(lambda: own.log.stalled == 2)
            await own.fail_over(lose=1)
            await other.call("event_clear", name="e")
            assert await waiter.repeat() is True

    run(test)


def test_an_event_that_stays_clear_lets_nobody_go() -> None:
    async def test() -> None:
        async with cell() as own:
            waiter = Caller(own)
            waiter.call("event_wait", name="e", timeout=None)
            await eventually(lambda: bool(own.leader.extensions["events"]._waiters))
            await own.fail_over()
            waiting = waiter.repeat()
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await own.fail_over()
            waiter._last[0] = ("event_wait", {"name": "e", "timeout": 0.01})
            assert await waiter.repeat() is False
            assert not own.leader.extensions["events"]._waiters

    run(test)


@every_takeover
def test_a_dataset_stays_published_and_is_published_once(successor: Takeover) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            caller = Caller(own)
            put = {"names": ("d",), "keys": ((),), "data": ("data",), "override": False}

            async def publish() -> None:
                own.leader.stream_handlers["publish_flush_batched_send"](client="c", uid=b"u")
                await caller.call("publish_put", **put, client="c", uid=b"u")

            await publish()
            await own.fail_over()
            await caller.repeat()  # and not: it already exists
            with pytest.raises(KeyError, match="exists"):
                await publish()
            assert await own.leader.handlers["publish_list"]() == ["d"]
            (found,) = await own.leader.handlers["publish_get"](names=("d",))
            assert found["data"] == "data"

    run(test)


@every_takeover
def test_events_of_a_topic_are_kept_and_logged_once(successor: Takeover) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            caller = Caller(own)
            for n in range(topics.EVENTS_PER_TOPIC_MAX + 5):
                await caller.call("log_event", topic="t", msg=n)
            before = await caller.call("events", slot=1, topic="t")
            await own.fail_over()
            await caller.repeat(0)
            after = await caller.call("events", slot=1, topic="t")
            assert after == before[-topics.EVENTS_PER_TOPIC_MAX :]
            await caller.call("log_event", topic="t", msg="next")
            times = [when for when, _ in await caller.call("events", slot=1, topic="t")]
            assert times == sorted(set(times))

    run(test)


@every_takeover
def test_what_was_gathered_of_tasks_is_handed_over_once(successor: Takeover) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            caller = Caller(own)
            await caller.call("start_task_metadata", name="m")
            await own.submit({"x": (increment, 1)})
            await own.fail_over()
            await caller.repeat()
            found = await caller.call("stop_task_metadata", name="m")
            assert found == {"metadata": {}, "state": {}}
            await own.fail_over()
            assert await caller.repeat() == found
            with pytest.raises(ValueError, match="found 0"):
                await caller.call("stop_task_metadata", name="m")

    run(test)


@every_takeover
def test_a_restriction_is_kept_while_its_task_is_known(successor: Takeover) -> None:
    async def test() -> None:
        async with cell(successor) as own:
            caller = Caller(own)
            await own.submit({"x": (increment, 1), "y": (increment, 2)})
            await caller.call("set_restrictions", worker={"x": "tcp://a:1", "y": None})
            await own.fail_over()
            assert own.leader.tasks["x"].worker_restrictions == {"tcp://a:1"}
            assert own.leader.tasks["y"].worker_restrictions is None
            own.leader.remove_client("Client-test")
            assert "x" not in own.leader.tasks
            await own.fail_over()
            assert not own.leader.restrictions

    run(test)


def test_a_call_that_arrives_twice_at_one_leader_is_handled_once() -> None:
    async def test() -> None:
        async with cell() as own:
            caller = Caller(own)
            await caller.call("queue_create", name="q")
            waits = [caller.call("queue_get", name="q"), caller.repeat()]
            await asyncio.sleep(0.01)
            for n in range(2):
                await caller.call("queue_put", slot=1, **value("q", n))
            assert [item["value"] for item in await asyncio.gather(*waits)] == [0, 0]
            assert await own.leader.handlers["queue_qsize"](name="q") == 1

    run(test)


def test_a_get_that_was_given_up_takes_nothing() -> None:
    async def test() -> None:
        async with cell() as own:
            caller, gone = Caller(own), Caller(own, "gone")
            await caller.call("queue_create", name="q")
            given_up = caller.call("queue_get", name="q")
            left = gone.call("queue_get", name="q")
            await asyncio.sleep(0.01)
            await caller.call("queue_qsize", name="q")  # the next call of its slot
            own.leader.calls.abandon("gone")
            await caller.call("queue_put", **value("q", "item"))
            assert (await caller.call("queue_get", name="q"))["value"] == "item"
            for call in (given_up, left):
                with pytest.raises(asyncio.CancelledError):
                    await call

    run(test)


def test_a_call_that_was_overtaken_in_its_slot_is_not_done() -> None:
    async def test() -> None:
        async with cell() as own:
            caller = Caller(own)
            await caller.call("queue_create", name="q")
            await caller.call("queue_put", **value("q", 1))
            late = own.leader.handlers["queue_put"](**value("q", 0), ha_call=("s", 0, 1, True))
            assert await late is Status.dont_reply
            assert await own.leader.handlers["queue_qsize"](name="q") == 1

    run(test)


def test_one_answer_is_kept_for_each_call_under_way() -> None:
    async def test() -> None:
        async with cell() as own:
            caller = Caller(own)
            await caller.call("queue_create", name="q")
            waiting = caller.call("queue_get", slot=1, name="another")
            for n in range(50):
                await caller.call("queue_put", **value("q", n))
                await caller.call("queue_get", name="q")
            with pytest.raises(KeyError):
                await waiting
            assert len(own.leader.sessions.calls._slots["s"]) == 1
            assert rebuild(own.log.records).sessions.calls == own.leader.sessions.calls

    run(test)


def test_a_session_ends_with_its_client_and_a_silent_one_in_time() -> None:
    async def test() -> None:
        async with cell() as own:
            for session in ("clients", "workers"):
                await Caller(own, session).call("event_set", name="e")
            own.leader.session_of["Client-1"] = "clients"
            own.leader.calls._heard["workers"] -= SESSION_IDLE_SECONDS + 1
            own.leader.calls._heard["clients"] -= SESSION_IDLE_SECONDS + 1
            own.leader.calls._sweep()
            assert list(own.leader.sessions.calls) == ["clients"]
            assert [type(r) for r in own.log.records].count(CallsEnded) == 1
            own.leader.sessions.apply(ClientJoined("Client-1", "clients"))
            own.leader.remove_client("Client-1")
            own.leader.calls._sweep()
            assert not own.leader.calls._heard, "nor is it remembered when they were heard"
            late = Caller(own, "workers")
            late.known = True
            assert await late.call("event_set", name="e") == EXPIRED == EXPIRED_TO_THE_CLIENT

    run(test)


def test_a_long_item_travels_in_parts_and_comes_back_whole() -> None:
    async def test() -> None:
        async with cell(rebuild) as own:
            caller = Caller(own)
            item = b"x" * 3_000_000
            await caller.call("queue_create", name="q")
            await caller.call("queue_put", **value("q", item))
            await own.fail_over()
            assert (await caller.call("queue_get", name="q"))["value"] == item
            await own.fail_over()
            assert (await caller.repeat())["value"] == item
            await caller.call("queue_put", **value("q", 1))
            assert rebuild(own.log.records).sessions.calls == own.leader.sessions.calls

    run(test)


def test_many_items_leave_in_one_step() -> None:
    async def test() -> None:
        async with cell() as own:
            caller = Caller(own)
            await caller.call("queue_create", name="q")
            puts = [caller.call("queue_put", slot=n, **value("q", n)) for n in range(20_000)]
            await asyncio.gather(*puts)
            got = await caller.call("queue_get", slot=0, name="q", batch=True)
            assert len(got) == 20_000
            await own.fail_over()
            assert len(await caller.repeat(0)) == 20_000
            assert await own.leader.handlers["queue_qsize"](name="q") == 0

    run(test)


def test_a_full_queue_takes_what_waits_in_the_order_of_its_coming() -> None:
    async def test() -> None:
        async with cell() as own:
            caller = Caller(own)
            await caller.call("queue_create", name="q", maxsize=1)
            puts = [caller.call("queue_put", slot=n, **value("q", n)) for n in range(1, 4)]
            await asyncio.sleep(0.01)
            await own.fail_over()
            puts = [caller.repeat(slot) for slot in range(1, 4)]
            await asyncio.sleep(0.01)
            got = [(await caller.call("queue_get", name="q"))["value"] for _ in puts]
            assert got == [1, 2, 3]
            await asyncio.gather(*puts)

    run(test)


def test_every_operation_is_one_of_the_scheduler() -> None:
    async def test() -> None:
        async with cell() as own:
            assert sorted(OPERATIONS - set(own.leader.handlers)) == []
            assert sorted(NUMBERED - OPERATIONS) == []
            assert not [r for r in own.log.records if isinstance(r, (Called, ClientLeft))]

    run(test)
