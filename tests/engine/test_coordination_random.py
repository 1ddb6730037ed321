"""Each call is done once, whatever happens to its caller, its answer and its leaders at random.

Method: people put items, get them, log and lock, one call at a time. Leaders die with some of their
last records lost, and their successors have followed or were started on the ledger. Answers do not
arrive, so calls are repeated; sessions end, and their owners, who know nothing of it, repeat calls
as well; large answers are dropped. What each was told is held against what is there in the end.
``DASK_HA_TEST_SEEDS`` runs more.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from distributed.metrics import monotonic

from ha_scheduler.engine.coordination.events import WAITERS
from ha_scheduler.engine.coordination.multi_locks import REQUESTS
from ha_scheduler.engine.coordination.semaphores import LOCK_IDLE_SECONDS
from ha_scheduler.engine.stream.calls import SESSION_IDLE_SECONDS
from ha_scheduler.ledger.calls import Calls
from ha_scheduler.protocol.client import EXPIRED, LOST
from tests.engine.conftest import follow, rebuild
from tests.engine.coordination import Caller, Cell, cell, queue

SEEDS = int(os.environ.get("DASK_HA_TEST_SEEDS", "20"))
N_PEOPLE = 4
N_MOVES = 120
LARGE_BYTES = 20_000
HEAVY_BYTES = 25_000  # of large answers that are kept: one
STEPS = 50  # of the event loop, in which whatever does not wait has been answered

Item = tuple[str, int]


async def settle_loop() -> None:
    for _ in range(STEPS):
        await asyncio.sleep(0)


class Person:
    """A caller that believes in its session, and what it knows of its calls."""

    def __init__(self, play: Play, name: str) -> None:
        self.play = play
        self.name = name
        self.done: list[Item] = []  # puts and logs that were answered
        self.unknown: list[Item] = []  # that may have been done
        self.got: list[Item] = []
        self.gets_lost = 0
        self.holds = ""  # the id of the request whose locks it holds
        self.task: asyncio.Task[Any] | None = None
        self._sessions = 0
        self._calls = 0
        self._renew()

    def _renew(self) -> None:
        self._sessions += 1
        self._caller = Caller(self.play.own, f"{self.name}/{self._sessions}", owner=self.name)

    def begin(self) -> None:
        """The next call."""
        self._calls += 1
        self._sent = 1
        self._op, kwargs = self.play.choose(self)
        self._item = (self.name, self._calls)
        if self._op == "queue_put":
            kwargs["data"] = [*self._item, b"x" * self.play.random.choice((1, LARGE_BYTES))]
        elif self._op == "log_event":
            kwargs["msg"] = self._item
        elif self._op == "multi_lock_acquire":
            kwargs["id"] = f"{self.name}-{self._calls}"
        elif self._op == "multi_lock_release":
            kwargs["id"], self.holds = self.holds, ""
        self._id = kwargs.get("id", "")
        self.task = self._caller.call(self._op, **kwargs)

    def repeat(self) -> None:
        """The answer did not arrive, or nobody is left to give one."""
        assert self.task is not None
        self.task.cancel()
        self._sent += 1
        self.task = self._caller.repeat()

    def conclude(self) -> None:
        """Take the answer, if it is there."""
        task = self.task
        if task is None or not task.done():
            return
        if task.cancelled():
            self.repeat()
            return
        self.task, answer = None, task.result()
        if isinstance(answer, dict) and answer == EXPIRED:
            self._renew()
            if self._sent > 1:
                self._note(self.unknown, lost=True)
        elif isinstance(answer, dict) and answer == LOST:
            assert self._op == "queue_get", "no other answer is large"
            self._note(self.done, lost=True)
        else:
            self._note(self.done, lost=False)
            if self._op == "queue_get":
                name, number, _ = answer["value"]
                self.got.append((name, number))
            elif self._op == "multi_lock_acquire" and answer:
                assert not self.play.holders()
                self.holds = self._id

    def _note(self, items: list[Item], lost: bool) -> None:
        if self._op in ("queue_put", "log_event"):
            items.append((self._op, self._item[1]))
        elif self._op == "queue_get" and lost:
            self.gets_lost += 1


class Play:
    """The people, a cell, and what befalls them."""

    def __init__(self, own: Cell, seed: int) -> None:
        self.own = own
        self.random = Random(seed)
        self.people = [Person(self, f"p{n}") for n in range(N_PEOPLE)]

    def holders(self) -> list[Person]:
        return [person for person in self.people if person.holds]

    def choose(self, person: Person) -> tuple[str, dict[str, Any]]:
        choices: list[tuple[str, dict[str, Any]]] = [
            ("queue_put", {"name": "q"}),
            ("queue_put", {"name": "q"}),
            ("queue_get", {"name": "q"}),
            ("log_event", {"topic": "t"}),
            ("event_wait", {"name": "e", "timeout": 0}),
        ]
        if person.holds:
            choices += [("multi_lock_release", {})] * 3
        else:
            choices.append(("multi_lock_acquire", {"locks": ["x", "y"], "num_locks": 2}))
        op, kwargs = self.random.choice(choices)
        return op, dict(kwargs)

    async def move(self) -> None:
        kinds = [self.act] * 12 + [self.lose_an_answer] * 3 + [self.crash] * 2 + [self.forget] * 2
        await self.random.choice([*kinds, self.time_passes])()
        await settle_loop()
        for person in self.people:
            person.conclude()

    async def act(self) -> None:
        person = self.random.choice(self.people)
        if person.task is None:
            person.begin()

    async def lose_an_answer(self) -> None:
        await self.act()
        await settle_loop()
        for person in self.people:
            if person.task is not None and self.random.random() < 0.5:
                person.repeat()

    async def crash(self) -> None:
        """While the last calls of a leader are handled. Some of its last records are lost."""
        self.own.log.stall()
        for _ in range(3):
            await self.act()
            await settle_loop()
        self.own._successor = self.random.choice((follow, rebuild))
        await self.own.fail_over(lose=self.random.randint(0, self.own.log.stalled))
        for person in self.people:
            if person.task is not None and self.random.random() < 0.8:
                person.repeat()
            elif person.task is not None:
                person.task.cancel()  # it comes back later

    async def forget(self) -> None:
        """A client was away for too long; it may be in the midst of a call, and knows nothing."""
        idle = [person for person in self.people if not person.holds]
        if idle:
            self.own.forget_client(self.random.choice(idle).name)

    async def time_passes(self) -> None:
        """So much that silent sessions end and idle locks are forgotten."""
        if not self.holders():
            calls = self.own.leader.calls
            calls._heard = {
                each: at - SESSION_IDLE_SECONDS - 1 for each, at in calls._heard.items()
            }
            calls._sweep()
        self.own.leader.extensions["semaphores"]._forget(monotonic() + LOCK_IDLE_SECONDS + 1)

    async def check(self) -> None:
        """What is there in the end, and what everybody was told."""
        await self.own.fail_over()
        auditor = Caller(self.own, "auditor")
        left = await auditor.call("queue_get", name="q", batch=True)
        logged = [tuple(message) for _, message in await self.own.ask("events", topic="t")]
        got = [item for person in self.people for item in person.got]
        there = Counter([*got, *((name, number) for name, number, _ in (r["value"] for r in left))])
        events = Counter(logged)
        assert set(there.values()) | set(events.values()) <= {1}, "nothing is done twice"
        missing = 0
        for person in self.people:
            for op, number in person.done:
                if op == "log_event":
                    assert (person.name, number) in events
                else:
                    missing += (person.name, number) not in there
        may_miss = sum(person.gets_lost for person in self.people)
        may_miss += sum(person.task is not None for person in self.people)
        assert missing <= may_miss, "only a get whose answer is lost takes an item along"
        known = {(p.name, number) for p in self.people for _, number in [*p.done, *p.unknown]}
        known |= {person._item for person in self.people if person.task is not None}
        assert {*there, *events} <= known, "nothing is done that its caller was told was not"
        for person in self.people:
            for other in self.people:
                mine = [number for name, number in person.got if name == other.name]
                assert all(a < b for a, b in pairwise(mine)), "first in, first out"

    async def everybody_leaves(self) -> None:
        """Nothing is left of anybody's calls."""
        for person in self.people:
            self.own.forget_client(person.name)
        self.own.forget_client("auditor")
        self.own.forget_client("opener")
        await settle_loop()
        assert self.own.leader.sessions.calls == Calls()
        assert not self.own.leader.calls._running
        assert self.own.rows(WAITERS) == []
        waiting = self.own.leader.extensions["multi_locks"].requests_left
        assert set(waiting.values()) <= {0}
        assert sorted(self.own.rows(REQUESTS)) == sorted(waiting)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_each_call_is_done_once_whatever_happens(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Calls.excess, "__defaults__", (HEAVY_BYTES,))
    async with cell() as own:
        await queue(Caller(own, "opener"))
        play = Play(own, seed)
        for _ in range(N_MOVES):
            await play.move()
        await play.check()
        await play.everybody_leaves()
