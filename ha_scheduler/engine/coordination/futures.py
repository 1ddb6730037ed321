"""Futures in queues and variables."""

from __future__ import annotations

import asyncio
from typing import Any

from distributed.utils import Deadline

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.keys import Key

POLL_SECONDS = 0.01  # as upstream's (queues.py:95); a graph is on its way


Item = dict[str, Any]  # ``type`` and ``value``


async def item_of(scheduler: SchedulerBase, key: Key | None, data: Any, deadline: Deadline) -> Item:
    """The item of plain data, or of a future (``key``) once its graph has come.

    Graphs come over another connection. Raises ``TimeoutError``.
    """
    if key is None:
        return {"type": "msgpack", "value": data}
    while key not in scheduler.tasks:
        await asyncio.sleep(POLL_SECONDS)
        if deadline.expired:
            raise TimeoutError(f"Task {key} unknown to scheduler.")
    return {"type": "Future", "value": key}


def with_state(scheduler: SchedulerBase, item: Item) -> Item:
    """The item as a client is told it: a future with its present state."""
    if item["type"] != "Future":
        return item
    ts = scheduler.tasks.get(item["value"])
    told = {**item, "state": ts.state if ts is not None else "lost"}
    if ts is not None and ts.exception_blame is not None:
        told["exception"] = ts.exception_blame.exception
        told["traceback"] = ts.exception_blame.traceback
    return told
