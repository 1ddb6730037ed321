"""Workers to which a client restricts tasks after their graph (``set_restrictions``).

Guarantee: a restriction is a row while its task is known, and holds on a new leader before it
places the first task.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from distributed.scheduler import TaskState

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.tables import DELETED, Deleted, Table

RESTRICTIONS = "restrictions"  # key → workers, or none for no restriction


class Restrictions(SchedulerBase):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.restrictions: dict[Key, tuple[str, ...]] = {}
        self._restrictions = self.tables.add(
            Table(RESTRICTIONS, self.restrictions, apply=self._apply_restriction, of_tasks=True)
        )

    def _apply_restriction(self, key: Key, value: tuple[str, ...] | Deleted) -> None:
        if value is not DELETED:
            self._restrict(key)  # in a rebuild its graph is still to come

    def rebuilt(self) -> None:
        """The restricted tasks are known."""
        super().rebuilt()
        for key in self.restrictions:
            self._restrict(key)

    def _restrict(self, key: Key) -> None:
        ts = self.tasks.get(key)
        if ts is not None:
            ts.worker_restrictions = set(self.restrictions[key]) or None
            self._place_anew(ts)

    def _place_anew(self, ts: TaskState) -> None:
        """A restricted task must not be queued: those go anywhere (scheduler.py:3635)."""
        if ts.state == "queued" and ts.worker_restrictions:
            self.transitions({ts.key: "released"}, "ha-restrict")

    def set_restrictions(self, worker: dict[Key, Collection[str] | str | None]) -> None:
        """As upstream's. Raises ``KeyError`` if a task is unknown, and restricts none.

        Upstream stops half-way then (scheduler.py:8047), which the ledger would not know.
        """
        if unknown := [key for key in worker if key not in self.tasks]:
            raise KeyError(f"no task was restricted: the scheduler does not know {unknown}")
        super().set_restrictions(worker)
        tasks = [self.tasks[key] for key in worker]
        bound = [(ts.key, tuple(sorted(ts.worker_restrictions or ()))) for ts in tasks]
        changes = [self._restrictions.set(key, addresses) for key, addresses in bound]
        for ts in tasks:
            self._place_anew(ts)
        self.transactions.write(*changes)
