"""The active memory manager, which a client may stop and start.

Guarantee: it runs under the next leader if and only if it ran under this one, once whoever stopped
or started it has been told so.
"""

from __future__ import annotations

from typing import Any

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.tables import Table

SWITCHES = "switch"  # of one row: whether it runs

AMM = "amm"  # the name of upstream's extension, and of its row


class MemoryManager(SchedulerBase):
    """The part of our Scheduler that keeps the switch."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.switches: dict[str, bool] = {}
        self._switches = self.tables.add(
            Table(SWITCHES, self.switches, lead=self._restore_memory_manager)
        )

    async def amm_asked(self, method: str) -> Any:
        """As upstream's ``amm_handler``; what was switched has committed."""
        manager = self.extensions[AMM]
        result = manager.amm_handler(method)
        if method in ("start", "stop"):
            self.transactions.note(self._switches.set(AMM, manager.running))
            await self.transactions.settled()
        return result

    def _restore_memory_manager(self) -> None:
        """Switch it as it was under the leader before; where nobody did, as it is configured."""
        manager, running = self.extensions.get(AMM), self.switches.get(AMM)
        if manager is not None and running is not None:
            (manager.start if running else manager.stop)()
