"""The active memory manager, which a client may stop and start.

Guarantee: it runs under the next leader exactly if it ran under this one, once the client that
switched it was answered.
"""

from __future__ import annotations

from typing import Any

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.tables import Table

SWITCHES = "switch"  # of one row: whether it runs

AMM = "amm"  # the name of upstream's extension, and of its row


class MemoryManager(SchedulerBase):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.switches: dict[str, bool] = {}
        self._switches = self.tables.add(
            Table(SWITCHES, self.switches, lead=self._restore_memory_manager)
        )

    async def amm_asked(self, method: str) -> Any:
        """As upstream's ``amm_handler``; answered when the switch has committed."""
        manager = self.extensions[AMM]
        result = manager.amm_handler(method)
        if method in ("start", "stop"):
            self.transactions.note(self._switches.set(AMM, manager.running))
            await self.transactions.settled()
        return result

    def _restore_memory_manager(self) -> None:
        """Switch it as under the last leader; if nobody did, it stays as configured."""
        manager, running = self.extensions.get(AMM), self.switches.get(AMM)
        if manager is not None and running is not None:
            (manager.start if running else manager.stop)()
