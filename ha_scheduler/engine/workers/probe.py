"""Calls to a worker that may be dead.

Guarantee: a refused connection is known at once, and is the only proof that a worker's process has
ended. One whose host takes the connection exists, however long it does not answer: a task that
holds the interpreter lets nothing of it run. One of which nothing comes may be either.

Dask's own ``connect`` retries a refusal until its timeout (comm/core.py:338), and a leader that
waits for a dead worker schedules nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any

from ha_scheduler.comm.address import parse_endpoint

DOUBT_SECONDS = 0.1  # a worker on a LAN answers within a few milliseconds
CONNECT_SECONDS = 2.0  # to a host that is there
AGAIN_SECONDS = 0.2  # between two looks at a process that hung up on us
_NETWORK = ("tcp", "tls")  # others, such as inproc, have no ports


class Reach(Enum):
    """What comes of a connection to a worker's port."""

    REFUSED = auto()  # nobody listens: its process has ended
    ACCEPTED = auto()  # by the kernel of its host: its process exists
    NOTHING = auto()  # the host or the network may be gone


class WorkerSilent(TimeoutError):
    """Remote: a worker's process exists and does not answer."""


async def call(address: str, answer: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """``answer``, which is expected from ``address``.

    Raises ``ConnectionRefusedError`` if nobody listens there; after ``seconds`` ``WorkerSilent`` if
    somebody does, and else ``TimeoutError``.
    """
    asking, reached = asyncio.ensure_future(answer), Reach.NOTHING
    try:
        async with asyncio.timeout(seconds):
            await asyncio.wait({asking}, timeout=DOUBT_SECONDS)
            if not asking.done():
                reached = await reach(address, seconds)
                if reached is Reach.REFUSED:
                    raise ConnectionRefusedError(f"nobody listens at {address}")
            return await asking
    except TimeoutError:
        if reached is Reach.ACCEPTED:
            raise WorkerSilent(f"{address} did not answer within {seconds:g} s") from None
        raise
    finally:
        asking.cancel()


async def reach(address: str, seconds: float) -> Reach:
    """What comes of a connection within ``seconds``."""
    if address.partition("://")[0] not in _NETWORK:
        return Reach.ACCEPTED
    try:
        _, writer = await _connect(address, seconds)
    except ConnectionRefusedError:
        return Reach.REFUSED
    except OSError:
        return Reach.NOTHING
    writer.close()
    return Reach.ACCEPTED


async def until_gone(address: str, matters: Callable[[], bool]) -> bool:
    """Wait for the end of the process at ``address``, for as long as it ``matters``.

    Returns whether it has ended. Its kernel tells by the connection that is kept open: one for all
    the time, as they queue up at a process that takes none.
    """
    while matters():
        try:
            reader, writer = await _connect(address, CONNECT_SECONDS)
        except ConnectionRefusedError:
            return True
        except OSError:
            await asyncio.sleep(AGAIN_SECONDS)
            continue
        try:
            while await reader.read(1024):
                pass
        except OSError:
            pass
        finally:
            writer.close()
        await asyncio.sleep(AGAIN_SECONDS)
    return False


async def _connect(
    address: str, seconds: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises ``OSError``; ``TimeoutError`` is one."""
    endpoint = parse_endpoint(address)
    async with asyncio.timeout(seconds):
        return await asyncio.open_connection(endpoint.host, endpoint.port)
