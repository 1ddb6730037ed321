"""``distributed.Semaphore`` and ``distributed.Lock``, which is one of a single lease.

Guarantee: a lease is a row of the ledger before its holder is told, so that a failover neither
takes it away nor gives it twice. Time that passes without a leader does not count against a lease:
each is as good as refreshed when a new leader begins to serve.

A lease has an id that its holder chose, so asking for it again, or giving it back again, changes
nothing; those calls need no number.
"""

from __future__ import annotations

import math
from typing import Any

from distributed.metrics import time
from distributed.semaphore import SemaphoreExtension

from ha_scheduler.engine.coordination.book import DELETED, Book
from ha_scheduler.engine.values import GONE

SEMAPHORES = "semaphore"  # name → (most leases, seconds without a refresh, or None)
LEASES = "semaphore-lease"  # (name, lease id) → True

NOT_LEADING = math.inf  # when a lease was last seen by an engine that follows: never too long ago


class Semaphores(SemaphoreExtension):
    """The scheduler's semaphore extension."""

    max_leases: dict[Any, int]
    lease_timeouts: dict[Any, float | None]
    leases: dict[Any, dict[str, float]]

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        self._book: Book = scheduler.book
        scheduler.values.keep(SEMAPHORES, self._apply_semaphore)
        scheduler.values.keep(LEASES, self._apply_lease)

    # The ledger

    def _apply_semaphore(self, name: Any, value: Any) -> None:
        if value is GONE:
            self.max_leases.pop(name, None)
            self.lease_timeouts.pop(name, None)
        else:
            self.max_leases[name], self.lease_timeouts[name] = value

    def _apply_lease(self, at: Any, value: Any) -> None:
        name, lease_id = at
        if value is GONE:
            self.leases[name].pop(lease_id, None)
            if not self.leases[name]:
                del self.leases[name]
        else:
            self.leases[name][lease_id] = NOT_LEADING

    def activated(self) -> None:
        """This engine leads, and from now on holders can refresh their leases."""
        now = time()
        for leases in self.leases.values():
            leases.update(dict.fromkeys(leases, now))

    # What changes

    def create(self, name: Any, max_leases: int, lease_timeout: float | None) -> None:
        """As upstream's, and recorded. Raises ``ValueError``."""
        is_new = name not in self.max_leases
        super().create(name, max_leases, lease_timeout)
        if is_new:
            self._book.write((SEMAPHORES, name, (max_leases, lease_timeout)))

    def _get_lease(self, name: Any, lease_id: str) -> bool:
        is_new = lease_id not in self.leases[name]
        got = bool(super()._get_lease(name, lease_id))
        if got and is_new:
            self._book.write((LEASES, (name, lease_id), True))
        return got

    def _release_value(self, name: Any, lease_id: str) -> None:
        super()._release_value(name, lease_id)
        self._book.note((LEASES, (name, lease_id), DELETED))

    def refresh_leases(self, name: Any = None, lease_ids: Any = None) -> None:
        """As upstream's: a lease that is not known, because it timed out, is given again."""
        unknown = [lease_id for lease_id in lease_ids if lease_id not in self.leases[name]]
        super().refresh_leases(name, lease_ids)
        if unknown:
            self._book.write(*((LEASES, (name, lease_id), True) for lease_id in unknown))

    def close(self, name: Any = None) -> None:
        """As upstream's, and recorded."""
        leases = list(self.leases.get(name, ()))
        known = name in self.max_leases
        super().close(name)
        if known:
            gone = [(LEASES, (name, lease_id), DELETED) for lease_id in leases]
            self._book.write(*gone, (SEMAPHORES, name, DELETED))

    def _check_lease_timeout(self) -> None:
        if self.scheduler.recovery.is_open:  # holders cannot refresh before
            super()._check_lease_timeout()
