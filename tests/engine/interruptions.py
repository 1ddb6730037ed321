"""A leader that is stopped in the middle of a client's call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from distributed import Client

from client_replay import Client as HAClient
from tests.engine.conftest import Pair, eventually

every_moment = pytest.mark.parametrize("lost", [True, False], ids=["lost", "committed"])


def increment(number: int) -> int:
    return number + 1


@asynccontextmanager
async def another_client(both: Pair) -> AsyncIterator[HAClient]:
    client = await HAClient(both.address, asynchronous=True, set_as_default=False)
    try:
        yield client
    finally:
        await client.close()


async def open_sessions(both: Pair) -> None:
    """Else the leader would die before the call, when the client opens its session."""
    present = set(both.leader.client_comms)
    for client in [each for each in Client._instances if each.id in present]:
        await client.set_metadata(["opens", client.id], True)


async def interrupted(both: Pair, call: Callable[[], Awaitable[Any]], lost: bool) -> Any:
    """What ``call`` returns when its leader dies after it has recorded it, and tells nobody."""
    await open_sessions(both)
    both.leader.recorder.flush()
    both.log.stall()
    pending = asyncio.ensure_future(call())
    await eventually(lambda: both.log.stalled > 0)
    await asyncio.sleep(0.01)
    assert not pending.done(), "nothing is answered before it has committed"
    await both.kill_leader(lose_records=both.log.stalled if lost else 0)
    both.log.resume()
    await both.take_over()
    return await pending
