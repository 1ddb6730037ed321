"""What cannot be sent, read or kept fails where it was asked for, and nothing else does."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import dask
import pytest
from distributed import Client as PlainClient
from distributed import Event, MultiLock, Queue, Variable

from client_replay.errors import CannotBeSent
from ha_scheduler.protocol.codec import INT_MAX
from ha_scheduler.protocol.keys import KEY_BYTES_MAX
from tests.engine.conftest import Pair, pair

SURROGATE = "load-caf\udce9.csv"  # as os.listdir gives a name that is no UTF-8
LONG = "k" * 900_000
ODD_KEYS = [SURROGATE, LONG, ("x", 2**70), ("x", SURROGATE), "é" * KEY_BYTES_MAX]


def fail(what: str) -> NoReturn:
    raise ValueError(f"there is no {what} here")


class Unreadable:
    """Pickled by whoever has it, and read by nobody."""

    def __reduce__(self) -> Any:
        return fail, ("such module",)


@asynccontextmanager
async def going_on() -> AsyncIterator[Pair]:
    """Other work of the same client goes on, on the same streams, and the journal is empty."""
    async with pair(1) as both:
        held = both.client.submit(int, 7, pure=False)
        assert await held == 7
        streams = [both.client.scheduler_comm, both.workers[0].batched_stream]
        yield both
        assert await both.client.submit(int, 8, pure=False) == 8
        assert await held == 7
        assert [both.client.scheduler_comm, both.workers[0].batched_stream] == streams
        assert len(both.client._ha.journal) == 0
        await both.kill_leader()
        await both.take_over()
        assert await both.client.submit(int, 9, pure=False) == 9
        assert await held == 7


def plain_client(both: Pair) -> Any:
    return PlainClient(both.leader.address, asynchronous=True, set_as_default=False)


async def test_a_key_that_cannot_be_sent_or_kept_is_refused_by_the_call() -> None:
    async with going_on() as both:
        client = both.client
        for key in ODD_KEYS:
            with pytest.raises((CannotBeSent, ValueError)):
                client.submit(int, 1, key=key)
            with pytest.raises((CannotBeSent, ValueError)):
                client.map(int, [1, 2], key=["fine", key])
            with pytest.raises((CannotBeSent, ValueError)):
                client.get({key: (int, 1)}, [key], sync=False)


async def test_an_annotation_that_cannot_be_pickled_is_refused_by_the_call() -> None:
    async with going_on() as both:
        for ask in (
            lambda: both.client.submit(int, 1),
            lambda: both.client.map(int, [1]),
            lambda: both.client.compute(dask.delayed(int)(1)),
            lambda: both.client.persist(dask.delayed(int)(1)),
        ):
            with dask.annotate(lock=threading.Lock()), pytest.raises((CannotBeSent, TypeError)):
                ask()


@pytest.mark.parametrize("odd", [Unreadable(), 2**70, SURROGATE])
async def test_an_annotation_that_ends_elsewhere_fails_its_future_alone(odd: Any) -> None:
    """The first cannot be read by the scheduler, the others not be sent to a worker."""
    async with going_on() as both:
        with dask.annotate(odd=odd):
            future = both.client.submit(int, 1, pure=False)
        with pytest.raises((ValueError, RuntimeError), match=r"no such module here|cannot be sent"):
            await future


async def test_an_annotation_of_an_unmodified_client_ends_that_message_alone() -> None:
    async with pair(1) as both, plain_client(both) as own:
        held = own.submit(int, 7, pure=False)
        assert await held == 7
        with dask.annotate(odd=Unreadable()):
            future = own.submit(int, 1, pure=False)
        with pytest.raises(ValueError, match="no such module here"):
            await future
        with pytest.raises(ValueError, match="has 900000 bytes"):
            await own.submit(int, 1, key=LONG)
        assert await held == 7
        assert held.status == "finished"


@pytest.mark.parametrize("key", [SURROGATE, LONG, ("x", 2**70)])
async def test_a_key_within_a_graph_fails_that_graph(key: Any) -> None:
    async with going_on() as both:
        graph = {key: (int, 1), "asked": (abs, key)}
        with pytest.raises(ValueError, match=r"the key .* (cannot be sent|may have)"):
            await both.client.get(graph, "asked", sync=False)


async def test_a_call_with_an_odd_name_or_value_fails_alone() -> None:
    async with going_on() as both:
        client = both.client
        calls: list[Callable[[Any], Any]] = [
            lambda odd: Variable(odd, client=client).set(1),
            lambda odd: Queue(odd, client=client).put(1),
            lambda odd: Event(odd, client=client).set(),
            lambda odd: MultiLock([odd], client=client).acquire(),
            lambda odd: client.set_metadata(odd, 1),
            lambda odd: client.publish_dataset(1, name=odd),
            lambda odd: client.scatter({odd: 1}, direct=False),
            lambda odd: client.scatter({odd: 1}, direct=True),
            lambda odd: client.log_event(odd, 1),
        ]
        for call in calls:
            for odd in (SURROGATE, LONG):
                with pytest.raises((ValueError, OSError)):
                    await call(odd)
        for value in (2**70, SURROGATE):
            with pytest.raises((OverflowError, ValueError)):
                await Variable("v", client=client).set(value)
            with pytest.raises((OverflowError, ValueError)):
                await client.set_metadata("m", value)
        await Variable("v", client=client).set(INT_MAX)
        assert await Variable("v", client=client).get() == INT_MAX


async def test_topics_with_odd_names_are_refused_by_the_call() -> None:
    async with going_on() as both:
        for odd in (SURROGATE, 2**70):
            with pytest.raises(CannotBeSent):
                both.client.subscribe_topic(odd, print)
            both.client._event_handlers.pop(odd, None)
