"""Futures inside of queues and variables."""

from __future__ import annotations

import asyncio
from typing import Any

from distributed.utils import Deadline

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.keys import Key

POLL_SECONDS = 0.01  # as upstream's (queues.py:95); a graph is on its way


async def known(scheduler: SchedulerBase, key: Key, deadline: Deadline) -> None:
    """Wait for the graph of a key, which comes over another connection. Raises ``TimeoutError``."""
    while key not in scheduler.tasks:
        await asyncio.sleep(POLL_SECONDS)
        if deadline.expired:
            raise TimeoutError(f"Task {key} unknown to scheduler.")


def with_state(scheduler: SchedulerBase, record: dict[str, Any]) -> dict[str, Any]:
    """The record as a client is told it: of a future with its state of now."""
    if record["type"] != "Future":
        return record
    ts = scheduler.tasks.get(record["value"])
    told = {**record, "state": ts.state if ts is not None else "lost"}
    if ts is not None and ts.exception_blame is not None:
        told["exception"] = ts.exception_blame.exception
        told["traceback"] = ts.exception_blame.traceback
    return told
