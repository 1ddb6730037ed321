"""A leading scheduler whose records are kept, and followers that replay them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from distributed import Client, Worker

from ha_scheduler.engine.recorder import OnCommit
from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.ledger.records import Record, decode


class KeptLog:
    """Commits at once, and keeps what was committed."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def propose(self, data: bytes, on_commit: OnCommit | None) -> None:
        self.records.append(decode(data))
        if on_commit is not None:
            asyncio.get_running_loop().call_soon(on_commit)


def new_scheduler() -> Scheduler:
    return Scheduler(
        host="127.0.0.1", port=0, protocol="tcp://", dashboard_address=":0", validate=True
    )


@asynccontextmanager
async def leading(
    log: KeptLog, workers: int = 2, term: int = 1
) -> AsyncIterator[tuple[Scheduler, Client, list[Worker]]]:
    """A leader, upstream's workers, and upstream's client, on loopback in this event loop."""
    scheduler = new_scheduler()
    await scheduler.activate(term, log, lambda phase, detail: None)
    started = [
        await Worker(scheduler.address, nthreads=1, dashboard_address=":0", name=f"w{i}")
        for i in range(workers)
    ]
    client = await Client(scheduler.address, asynchronous=True, set_as_default=False)
    try:
        yield scheduler, client, started
    finally:
        await client.close()
        await asyncio.gather(*(worker.close() for worker in started))
        await end(scheduler)


async def end(scheduler: Scheduler) -> None:
    """Stop an engine's scheduler within a process that lives on (an engine just exits)."""
    await super(Scheduler, scheduler).close()


def follow(records: list[Record]) -> Scheduler:
    """A follower that has replayed these records."""
    follower = new_scheduler()
    for record in records:
        follower.replay.apply(record)
    return follower


async def eventually(condition: Callable[[], bool]) -> None:
    """Until the condition holds; the test's own deadline ends a wait in vain."""
    while not condition():
        await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[Any]]) -> None:
    """Run one test in an event loop of its own."""
    asyncio.run(asyncio.wait_for(test(), 60))
