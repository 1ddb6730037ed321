"""An engine without a cell: it leads at once and what it records commits at once.

For developing and testing workers and clients against the real scheduler of an engine. Nothing is
replicated: when it dies, what it recorded is gone.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ha_scheduler.engine.options import scheduler_arguments
from ha_scheduler.engine.recorder import ImmediateLog
from ha_scheduler.engine.scheduler import Scheduler


async def run(options: dict[str, Any], term: int) -> int:
    """Serve until the process is ended."""
    cell = {"cell": "standalone", "leader": "standalone", "watch": [], "addresses": []}
    scheduler = Scheduler(cell=cell, **scheduler_arguments(options))
    await scheduler.activate(term, ImmediateLog(), lambda phase, detail: None)
    await asyncio.Event().wait()
    return 0
