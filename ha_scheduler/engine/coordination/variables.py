"""``distributed.Variable``: a register that everybody reads and writes.

Guarantee: a value is a row of the ledger from its ``set``; a ``set`` that is repeated does not undo
what was set meanwhile. A future that a variable names is wanted by it, and so is one that a ``get``
has handed out, until it is confirmed.
"""

from __future__ import annotations

from typing import Any

from dask.utils import parse_timedelta
from distributed.utils import Deadline
from distributed.variable import VariableExtension

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.coordination.futures import known, with_state
from ha_scheduler.engine.coordination.key_holds import KeyHolds
from ha_scheduler.engine.coordination.wait_queue import WaitQueue
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.tables import DELETED, Deleted, Table
from ha_scheduler.engine.stream.transactions import Transactions

VARIABLES = "variable"  # name → record

Record = dict[str, Any]


class Variables(VariableExtension):
    """The scheduler's variable extension."""

    scheduler: SchedulerBase

    variables: dict[str, Record]

    def __init__(self, scheduler: SchedulerBase) -> None:
        super().__init__(scheduler)
        self._transactions: Transactions = scheduler.transactions
        self._holds = KeyHolds(scheduler, "variable")
        self._readers: dict[str, WaitQueue] = {}
        scheduler.handlers["variable_delete"] = self.delete
        self._rows = scheduler.tables.add(
            Table(VARIABLES, apply=self._put, settle=self._holds.restore)
        )

    def _put(self, name: Any, record: Record | Deleted) -> None:
        """Change the value here. The new key is named before the old one is let go."""
        former = self.variables.get(name)
        if record is DELETED:
            self.variables.pop(name, None)
        else:
            self.variables[name] = record
            if record["type"] == "Future":
                self._holds.name(name, record["value"])
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
        if key is None:
            record = {"type": "msgpack", "value": data}
        else:
            await known(self.scheduler, key, Deadline.after(parse_timedelta(timeout)))
            record = {"type": "Future", "value": key}
            self.scheduler.client_desires_keys(keys=[key], client=f"variable-{name}")
        self._transactions.write(self._rows.set(name, record))
        self._put(name, record)
        if name in self._readers:
            self._readers[name].serve()

    async def get(
        self, name: Any = None, client: str | None = None, timeout: float | None = None
    ) -> Record:
        """The value, when there is one. Raises ``TimeoutError``."""
        readers = self._readers.setdefault(name, WaitQueue())
        try:
            return await readers.turn(lambda: self._read(name), Deadline.after(timeout))
        finally:
            if not readers:
                self._readers.pop(name, None)

    def _read(self, name: Any) -> Record | None:
        record = self.variables.get(name)
        if record is None or record["type"] != "Future":
            return record
        self._holds.hand_out(name, record["value"])
        # ``token``: upstream's client sends it back; what counts here is that it does.
        return {**with_state(self.scheduler, record), "token": ""}

    async def future_received_confirm(
        self,
        name: Any = None,
        key: Any = None,
        token: str | None = None,
        client: str = "",
    ) -> None:
        """Whoever got the future wants it itself now."""
        self.scheduler.client_desires_keys([key], client)
        self._holds.confirm(name, key)

    async def delete(self, name: Any = None, client: str | None = None) -> None:
        """Delete the variable."""
        if name in self.variables:
            self._transactions.write(self._rows.delete(name))
            self._put(name, DELETED)
        if self._holds.wants_nothing(name):
            self.scheduler.remove_client(f"variable-{name}")
