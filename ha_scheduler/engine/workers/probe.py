"""Calls to a worker that may be dead.

Guarantee: a refused connection is known at once. Dask's own ``connect`` retries a refusal until its
timeout (comm/core.py:338), and a leader that waits for a dead worker schedules nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ha_scheduler.comm.address import parse_endpoint

DOUBT_SECONDS = 0.1  # a worker on a LAN answers within a few milliseconds
_NETWORK = ("tcp", "tls")  # others, such as inproc, have no ports


async def call(address: str, answer: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """``answer``, which is expected from ``address``.

    Raises ``ConnectionRefusedError`` if nobody listens there, ``TimeoutError`` after ``seconds``.
    """
    asking = asyncio.ensure_future(answer)
    try:
        async with asyncio.timeout(seconds):
            await asyncio.wait({asking}, timeout=DOUBT_SECONDS)
            if not asking.done() and await refuses(address, seconds):
                raise ConnectionRefusedError(f"nobody listens at {address}")
            return await asking
    finally:
        asking.cancel()


async def refuses(address: str, seconds: float) -> bool:
    """Whether the host of ``address`` says within ``seconds`` that nobody listens there."""
    if address.partition("://")[0] not in _NETWORK:
        return False
    endpoint = parse_endpoint(address)
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    writer.close()
    return False
