"""An engine without a cell: it leads as soon as it starts, and what it records commits at once.

For developing and testing workers and clients against the real scheduler of an engine. Nothing is
replicated: when it dies, what it recorded is gone. Unlike the engine of a cell it can be closed,
for there is nobody else to end it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ha_scheduler.engine import scheduler as engine
from ha_scheduler.engine.options import scheduler_arguments
from ha_scheduler.engine.stream.recorder import ImmediateLog
from ha_scheduler.protocol.client import Welcome

_CELL = Welcome(0, "standalone", "standalone")


class Scheduler(engine.Scheduler):
    """Takes what ``distributed.Scheduler`` takes and is used as that is."""

    def __init__(self, *args: Any, term: int = 1, **kwargs: Any) -> None:
        self._own_term = term
        super().__init__(*args, cell=_CELL, **kwargs)

    async def start_unsafe(self) -> Any:
        """Start, and lead."""
        self.prepare_to_lead(self._own_term, ImmediateLog(), lambda phase, detail: None)
        result = await super().start_unsafe()
        self.recover()
        return result

    async def close(self, timeout: float | None = None, reason: str = "unknown") -> None:
        """As ``distributed.Scheduler.close``."""
        await super(engine.Scheduler, self).close(timeout=timeout, reason=reason)


async def run(options: dict[str, Any], term: int) -> int:
    """Serve until the process is ended."""
    await Scheduler(term=term, **scheduler_arguments(options))
    await asyncio.Event().wait()
    return 0
