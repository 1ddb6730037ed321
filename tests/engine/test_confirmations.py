"""Answers that commit nothing wait for a quorum's word that their leader still leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ha_scheduler.engine.confirmations import READS, Rounds
from tests.engine.conftest import eventually, pair

ARGUMENTS: dict[str, dict[str, Any]] = {
    "queue_qsize": {"name": "q"},
    "variable_get": {"name": "v", "timeout": None, "client": None},
    "semaphore_value": {"name": "s"},
    "event_is_set": {"name": "e"},
    "event_wait": {"name": "e", "timeout": 0},
    "publish_get": {"name": "d"},
    "publish_list": {},
    "get_metadata": {"keys": ["m"], "default": None},
    "events": {"topic": "t"},
    "ha-lock-forgotten": {"name": "l"},
}


def test_who_asks_meanwhile_shares_the_next_question() -> None:
    asked: list[int] = []
    heard: list[str] = []
    rounds = Rounds(asked.append)
    for name in ("first", "second", "third"):
        rounds.confirm(lambda name=name: heard.append(name))  # type: ignore[misc]
    assert asked == [1]
    rounds.confirmed(1)
    assert (heard, asked) == (["first"], [1, 2])
    rounds.confirmed(1)
    assert heard == ["first"], "an answer to an earlier question"
    rounds.confirmed(2)
    assert (heard, asked) == (["first", "second", "third"], [1, 2])
    rounds.confirm(lambda: heard.append("fourth"))
    assert asked == [1, 2, 3]


async def test_what_is_read_is_told_when_a_quorum_has_confirmed_that_its_leader_leads() -> None:
    assert ARGUMENTS.keys() == READS
    async with pair(workers=0) as both:
        await both.client.scheduler.queue_create(name="q", client=both.client.id, maxsize=0)
        await both.client.scheduler.variable_set(name="v", data=1, client=both.client.id)
        held: list[Callable[[], None]] = []
        both.log.confirm = held.append  # type: ignore[method-assign]
        asking = {
            op: asyncio.ensure_future(getattr(both.client.scheduler, op)(**arguments))
            for op, arguments in ARGUMENTS.items()
        }
        await eventually(lambda: len(held) == len(READS))
        assert not [op for op, answer in asking.items() if answer.done()]
        for confirmed in held:
            confirmed()
        await asyncio.gather(*asking.values(), return_exceptions=True)


async def test_that_something_is_not_there_is_confirmed_too() -> None:
    async with pair(workers=0) as both:
        held: list[Callable[[], None]] = []
        both.log.confirm = held.append  # type: ignore[method-assign]
        asking = asyncio.ensure_future(both.client.scheduler.get_metadata(keys=["m"]))
        await eventually(lambda: len(held) == 1)
        assert not asking.done()
        held[0]()
        with pytest.raises(KeyError):
            await asking
