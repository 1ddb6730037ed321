"""What must not be repeated is sent to one leader, whatever becomes of that.

The moments: the leader has the request and dies before it answers, so that nobody knows whether it
was done; and nobody leads when it is made, so that it certainly was not.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from typing import Any

import pytest

from client_replay import OutcomeUnknown
from client_replay.calls.rpc import ONCE as NOT_REPEATABLE
from client_replay.calls.rpc import READ_ONLY_ON_WORKERS
from tests.engine.conftest import Pair, eventually, pair

ONCE = NOT_REPEATABLE - {"terminate"}  # but of a scheduler that stands alone
MARK = "of this test"  # workers make some of the same requests meanwhile


def count(scheduler: Any, arrived: Counter[str], answered: bool) -> None:
    """Count the requests of the test that arrive, and answer them or not."""

    def counting(op: str, former: Any) -> Any:
        @functools.wraps(former)
        async def handle(*args: Any, mark: str = "", **kwargs: Any) -> Any:
            if mark != MARK:
                result = former(*args, **kwargs)
                return await result if asyncio.iscoroutine(result) else result
            arrived[op] += 1
            if not answered:
                await asyncio.Event().wait()
            return op

        return handle

    for op in ONCE:
        scheduler.handlers[op] = counting(op, scheduler.handlers[op])


def count_at_the_next(both: Pair) -> Counter[str]:
    """Count from the start of the leader that will take over."""
    make, arrived = both._scheduler, Counter[str]()

    def made(number: int) -> Any:
        scheduler = make(number)
        count(scheduler, arrived, answered=True)
        return scheduler

    both._scheduler = made  # type: ignore[method-assign]
    return arrived


def ask(both: Pair) -> dict[str, asyncio.Future[Any]]:
    rpc = both.client.scheduler
    says = {"proxy": {"msg": {"op": "run"}}}  # a call of an actor has an answer of its own
    return {
        op: asyncio.ensure_future(getattr(rpc, op)(mark=MARK, **says.get(op, {})))
        for op in sorted(ONCE)
    }


async def test_what_must_not_be_repeated_has_an_unknown_outcome() -> None:
    async with pair() as both:
        arrived: Counter[str] = Counter()
        count(both.leader, arrived, answered=False)
        asked = ask(both)
        await eventually(lambda: set(arrived) == ONCE)
        again = count_at_the_next(both)
        await both.kill_leader()
        outcomes = await asyncio.gather(*asked.values(), return_exceptions=True)
        for op, outcome in zip(asked, outcomes, strict=True):
            assert isinstance(outcome, OutcomeUnknown)
            assert outcome.op == op
        await both.take_over()
        assert await both.client.submit(abs, -1) == 1
        assert not again
        assert set(arrived.values()) == {1}


async def test_what_was_never_sent_is_done_once_by_the_next_leader() -> None:
    async with pair() as both:
        arrived = count_at_the_next(both)
        await both.kill_leader()
        await eventually(lambda: both.client.status == "connecting")
        asked = ask(both)
        await both.take_over()
        assert await asyncio.gather(*asked.values()) == list(asked)
        assert arrived == dict.fromkeys(ONCE, 1)


@pytest.mark.parametrize("op", sorted(READ_ONLY_ON_WORKERS))
async def test_a_broadcast_that_only_looks_is_made_again(op: str) -> None:
    async with pair() as both:
        reached = asyncio.Event()

        async def never(**kwargs: Any) -> None:
            reached.set()
            await asyncio.Event().wait()

        both.leader.handlers["broadcast"] = never
        arguments = {"keys_or_stimuli": ["x"]} if op == "get_story" else {}
        asked = asyncio.ensure_future(both.client.scheduler.broadcast(msg={"op": op, **arguments}))
        await reached.wait()
        await both.kill_leader()
        await both.take_over()
        assert set(await asked) == {worker.address for worker in both.workers}


async def test_a_shutdown_whose_leader_died_is_made_by_the_next() -> None:
    async with pair() as both:
        reached = asyncio.Event()

        async def never(**kwargs: Any) -> None:
            reached.set()
            await asyncio.Event().wait()

        both.leader.handlers["terminate"] = never
        shutdown = asyncio.ensure_future(both.client.shutdown())
        await reached.wait()
        await both.kill_leader()
        await both.take_over()
        await shutdown
        await asyncio.gather(*(worker.finished() for worker in both.workers))
