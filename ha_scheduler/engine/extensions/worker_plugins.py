"""Plugins of workers and nannies, also for those that join under a new leader.

Guarantee: registering or unregistering one is answered after the commit; the present workers have
it by then, or have it no more. It is unregistered once, however often that is asked under one
number.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from ha_scheduler import failpoints
from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.tables import DELETED, Deleted, Table
from ha_scheduler.engine.stream.transactions import Transactions, take_call

WORKER_PLUGINS = "worker-plugin"  # name → pickled
NANNY_PLUGINS = "nanny-plugin"  # likewise


class Recorded:
    """Plugins in the ledger, beside upstream's dict of those that workers are given."""

    def __init__(self, scheduler: SchedulerBase, space: str, given: dict[str, bytes]) -> None:
        self._transactions: Transactions = scheduler.transactions
        self._given = given
        self._table: Table[str, bytes] = scheduler.tables.add(Table(space, apply=self._follow))

    def _follow(self, name: str, plugin: bytes | Deleted) -> None:
        if plugin is DELETED:
            self._given.pop(name, None)
        else:
            self._given[name] = plugin

    async def change(self, op: str, name: str, change: Coroutine[Any, Any, Any]) -> Any:
        """Make upstream's change of a plugin; returns its result after the commit."""
        failpoints.reach(f"{op}.arrived")
        result = await change
        failpoints.reach(f"{op}.done")
        await self.record(name)
        failpoints.reach(f"{op}.committed")
        return result

    async def remove(self, op: str, name: str, change: Coroutine[Any, Any, Any]) -> Any:
        """Make upstream's removal of a plugin; its result is the answer to the call in progress.

        A worker that has removed it for a former leader has done what was asked.
        """
        failpoints.reach(f"{op}.arrived")
        call = take_call()
        responses: dict[str, dict[str, Any]] = await change
        failpoints.reach(f"{op}.done")
        lacking = repr(KeyError(name))
        answer = {
            address: {"status": "OK"} if said.get("exception_text") == lacking else said
            for address, said in responses.items()
        }
        self._transactions.answer(call, self._table.delete(name), answer=answer)
        await self._transactions.settled()
        failpoints.reach(f"{op}.committed")
        return answer

    async def record(self, name: str) -> None:
        """Record the plugin if it changed, and wait for the commit.

        Every leader registers some of its own, the same as the leader before.
        """
        plugin = self._given.get(name)
        if plugin is None:
            self._transactions.note(self._table.delete(name))
        elif plugin != self._table.rows.get(name):
            self._transactions.note(self._table.set(name, plugin))
        await self._transactions.settled()


class WorkerPlugins(SchedulerBase):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._of_workers = Recorded(self, WORKER_PLUGINS, self.worker_plugins)
        self._of_nannies = Recorded(self, NANNY_PLUGINS, self.nanny_plugins)

    async def register_worker_plugin(
        self, comm: Any, plugin: bytes, name: str, idempotent: bool
    ) -> Any:
        change = super().register_worker_plugin(comm, plugin, name=name, idempotent=idempotent)
        return await self._of_workers.change("register_worker_plugin", name, change)

    async def unregister_worker_plugin(self, comm: Any, name: str) -> Any:
        change = super().unregister_worker_plugin(comm, name=name)
        return await self._of_workers.remove("unregister_worker_plugin", name, change)

    async def register_nanny_plugin(
        self, comm: Any, plugin: bytes, name: str, idempotent: bool
    ) -> Any:
        change = super().register_nanny_plugin(comm, plugin, name=name, idempotent=idempotent)
        return await self._of_nannies.change("register_nanny_plugin", name, change)

    async def unregister_nanny_plugin(self, comm: Any, name: str) -> Any:
        change = super().unregister_nanny_plugin(comm, name=name)
        return await self._of_nannies.remove("unregister_nanny_plugin", name, change)
