"""``Client.set_metadata`` and ``get_metadata``: one tree of values for everybody.

Guarantee: the value under each first key is a row of the ledger, written whole.
"""

from __future__ import annotations

from typing import Any

from distributed.protocol.pickle import dumps

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.tables import Table

METADATA = "metadata"  # the first of the keys → what is under it


class Metadata(SchedulerBase):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._metadata = self.tables.add(Table(METADATA, self.task_metadata, void_on_restart=True))

    def set_metadata(self, keys: list[Any], value: object = None) -> None:
        """As upstream's, recorded if it changed: a ``Cluster`` sets the same every second."""
        first = keys[0]
        before = dumps(self.task_metadata[first]) if first in self.task_metadata else None
        super().set_metadata(keys=keys, value=value)
        if dumps(self.task_metadata[first]) != before:
            self.transactions.write(self._metadata.set(first, self.task_metadata[first]))
