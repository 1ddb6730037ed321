"""A client of a scripted leader, and what that says to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from client_replay import Client
from ha_scheduler.comm.directory import forget_directories
from tests.worker.scripted_leader import ScriptedLeader


@asynccontextmanager
async def connected(
    leader: ScriptedLeader, *others: int, timeout: float = 5
) -> AsyncIterator[Client]:
    forget_directories()
    ports = (leader.port, *others)
    address = "ha://" + ",".join(f"127.0.0.1:{port}" for port in ports)
    client = await Client(address, asynchronous=True, timeout=timeout, set_as_default=False)
    try:
        yield client
    finally:
        await client.close()


def commit(sequences: list[int]) -> dict[str, Any]:
    return {"op": "ha-committed", "sequences": sequences}
