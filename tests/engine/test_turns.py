"""Turns: a client with many tasks does not keep one with few waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import dask
import pytest

from ha_scheduler.engine.clients import quotas
from ha_scheduler.engine.clients.turns import FAIR_SHARE
from tests.engine.callers import subjects
from tests.engine.conftest import Pair, eventually, pair

MANY = 200
order: list[str] = []
gate = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    order.clear()
    gate.clear()
    yield
    gate.set()


def noted(name: str, number: int) -> str:
    gate.wait(30)
    order.append(name)
    return name


def many(client: Any, name: str, count: int, **options: Any) -> list[Any]:
    keys = [f"{name}-{i}" for i in range(count)]
    options = {"key": keys, "pure": False, **options}
    futures: list[Any] = client.map(noted, [name] * count, range(count), **options)
    return futures


async def place_of_last(both: Pair, late: Any, **options: Any) -> int:
    """How many tasks ran before the last of ten that were submitted behind many."""
    crowd = many(both.client, "crowd", MANY)
    await eventually(lambda: len(both.leader.tasks) == MANY)
    few = many(late, "few", 10, fifo_timeout="0s", **options)
    await eventually(lambda: len(both.leader.tasks) == MANY + 10)
    gate.set()
    await late.gather(few)
    await both.client.gather(crowd)
    return max(i for i, name in enumerate(order) if name == "few")


async def test_without_turns_few_wait_for_all_of_the_many() -> None:
    async with subjects() as both, await both.client_of("bob") as bob:
        assert await place_of_last(both, bob) > MANY


async def test_with_turns_few_wait_for_about_as_many_as_they_are() -> None:
    with dask.config.set({FAIR_SHARE: True}):
        async with subjects() as both, await both.client_of("bob") as bob:
            assert await place_of_last(both, bob) < 40


async def test_a_subject_has_one_turn_however_many_clients_it_has() -> None:
    with dask.config.set({FAIR_SHARE: True}):
        async with subjects() as both, await both.client_of("alice-again") as again:
            assert await place_of_last(both, again) > MANY


async def test_without_subjects_each_client_has_its_turn() -> None:
    from client_replay import Client

    with dask.config.set({FAIR_SHARE: True}):
        async with (
            pair(1) as both,
            Client(both.address, asynchronous=True, set_as_default=False) as other,
        ):
            assert await place_of_last(both, other) < 40


async def test_priorities_of_users_come_before_turns() -> None:
    with dask.config.set({FAIR_SHARE: True}):
        async with subjects() as both, await both.client_of("bob") as bob:
            assert await place_of_last(both, bob, priority=-1) > MANY


@pytest.mark.parametrize("rebuilt", [False, True])
async def test_turns_are_the_same_under_the_next_leader_whatever_it_is_configured_for(
    rebuilt: bool,
) -> None:
    async with subjects() as both, await both.client_of("bob") as bob:
        with dask.config.set({FAIR_SHARE: True}):
            crowd = many(both.client, "crowd", MANY)
            few = many(bob, "few", 10, fifo_timeout="0s")
            await eventually(lambda: len(both.leader.tasks) == MANY + 10)
        former = {key: ts.priority for key, ts in both.leader.tasks.items()}
        await both.kill_leader()
        leader = await both.take_over(rebuilt=rebuilt)
        assert {key: ts.priority for key, ts in leader.tasks.items()} == former
        gate.set()
        await bob.gather(few)
        await both.client.gather(crowd)
        assert max(i for i, name in enumerate(order) if name == "few") < 40


async def test_the_next_leader_goes_on_with_the_turns() -> None:
    with dask.config.set({FAIR_SHARE: True}):
        async with subjects() as both, await both.client_of("bob") as bob:
            crowd = many(both.client, "crowd", MANY)
            await eventually(lambda: len(both.leader.tasks) == MANY)
            await both.kill_leader()
            leader = await both.take_over()
            few = many(bob, "few", 10)
            more = many(both.client, "more", 10)
            await eventually(lambda: len(leader.tasks) == MANY + 20)
            gate.set()
            await bob.gather(few)
            await both.client.gather(crowd + more)
            assert max(i for i, name in enumerate(order) if name == "few") < 40
            assert min(i for i, name in enumerate(order) if name == "more") > MANY


async def test_a_late_comer_does_not_catch_up_on_what_others_had_before_it_came() -> None:
    with dask.config.set({FAIR_SHARE: True}):
        async with subjects() as both, await both.client_of("bob") as bob:
            gate.set()
            await both.client.gather(many(both.client, "early", MANY))
            gate.clear()
            first = many(both.client, "first", 50)
            await eventually(lambda: "first-49" in both.leader.tasks)
            late = many(bob, "late", 50)
            await eventually(lambda: "late-49" in both.leader.tasks)
            gate.set()
            order.clear()
            await bob.gather(late)
            await both.client.gather(first)
            half = order[:50]
            assert 15 < half.count("late") < 35


async def test_outstanding_tasks_of_everybody_can_be_bounded() -> None:
    with dask.config.set({quotas.TASKS_MAX: 20}):
        async with subjects() as both, await both.client_of("bob") as bob:
            held = many(both.client, "crowd", 15)
            await eventually(lambda: len(both.leader.tasks) == 15)
            (refused,) = many(both.client, "more", 6)[:1]
            with pytest.raises(PermissionError, match="may have 20 outstanding tasks"):
                await refused
            others = many(bob, "few", 10)
            gate.set()
            await bob.gather(others)
            await both.client.gather(held)
            await both.client.gather(many(both.client, "again", 6))
