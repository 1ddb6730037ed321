"""``distributed.Variable``: a register that everybody reads and writes.

Guarantee: a value is a row from its ``set``; a repeated ``set`` does not undo a later one. A future
in a variable is wanted by it, and so is one that a ``get`` handed out, until it is confirmed.
"""

from __future__ import annotations

from typing import Any

from dask.utils import parse_timedelta
from distributed.utils import Deadline
from distributed.variable import VariableExtension

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.coordination.futures import Item, item_of, with_state
from ha_scheduler.engine.coordination.key_holds import KeyHolds
from ha_scheduler.engine.coordination.wait_queue import WaitQueue
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.tables import DELETED, Deleted, Table
from ha_scheduler.engine.stream.transactions import Transactions

VARIABLES = "variable"  # name → item


class Variables(VariableExtension):
    scheduler: SchedulerBase

    variables: dict[str, Item]

    def __init__(self, scheduler: SchedulerBase) -> None:
        super().__init__(scheduler)
        self._transactions: Transactions = scheduler.transactions
        self._holds = KeyHolds(scheduler, "variable")
        self._readers: dict[str, WaitQueue] = {}
        scheduler.handlers["variable_delete"] = self.delete
        self._rows = scheduler.tables.add(
            Table(VARIABLES, apply=self._put, settle=self._holds.restore)
        )

    def _put(self, name: Any, item: Item | Deleted) -> None:
        """Set the value here. The new key is named before the old one is released."""
        former = self.variables.get(name)
        if item is DELETED:
            self.variables.pop(name, None)
        else:
            self.variables[name] = item
            if item["type"] == "Future":
                self._holds.name(name, item["value"])
        if former is not None and former["type"] == "Future":
            self._holds.unname(name, former["value"])

    async def set(
        self,
        name: Any = None,
        key: Key | None = None,
        data: Any = None,
        client: str | None = None,
        timeout: Any = None,
    ) -> None:
        """Set the value. Raises ``TimeoutError`` if it is a future whose graph does not come."""
        deadline = Deadline.after(parse_timedelta(timeout))
        item = await item_of(self.scheduler, key, data, deadline)
        if key is not None:
            self.scheduler.client_desires_keys(keys=[key], client=f"variable-{name}")
        self._transactions.write(self._rows.set(name, item))
        self._put(name, item)
        if name in self._readers:
            self._readers[name].serve()

    async def get(
        self, name: Any = None, client: str | None = None, timeout: float | None = None
    ) -> Item:
        """The value, when there is one. Raises ``TimeoutError``."""
        readers = self._readers.setdefault(name, WaitQueue())
        try:
            return await readers.turn(lambda: self._read(name), Deadline.after(timeout))
        finally:
            if not readers:
                self._readers.pop(name, None)

    def _read(self, name: Any) -> Item | None:
        item = self.variables.get(name)
        if item is None or item["type"] != "Future":
            return item
        self._holds.hand_out(name, item["value"])
        # ``token``: upstream's client sends it back; what counts here is that it does.
        return {**with_state(self.scheduler, item), "token": ""}

    async def future_received_confirm(
        self, name: Any = None, key: Any = None, token: str | None = None, client: str = ""
    ) -> None:
        self.scheduler.client_desires_keys([key], client)
        self._holds.confirm(name, key)

    async def delete(self, name: Any = None, client: str | None = None) -> None:
        if name in self.variables:
            self._transactions.write(self._rows.delete(name))
            self._put(name, DELETED)
        if self._holds.wants_nothing(name):
            self.scheduler.remove_client(f"variable-{name}")
