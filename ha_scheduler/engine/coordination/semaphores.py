"""``distributed.Semaphore`` and ``distributed.Lock``, which is one of a single lease.

Guarantee: a lease is a row before its holder is told, so a failover neither takes it away nor gives
it twice. Time without a leader does not count: each lease is as good as refreshed when a new leader
begins to serve. Its holder chose the id of a lease, so acquiring and releasing are idempotent and
need no number.

A lock (one lease at most) that nobody holds, awaits or has used for ``LOCK_IDLE_SECONDS`` is
forgotten: Dask names each one and closes few. Nobody notices: a caller of ours that uses it again
asks whether it was closed (``LockForgotten``), and registers it once more if not. A lock that was
ever registered by a caller without numbered calls is kept, as that one could not do so. That a lock
was closed is known for ``CLOSED_SECONDS``. A semaphore of several leases stays until it is closed,
as with upstream.
"""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import takewhile
from typing import Any

from distributed.metrics import monotonic, time
from distributed.semaphore import SemaphoreExtension

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.tables import DELETED, Change, Deleted, Table
from ha_scheduler.engine.stream.transactions import Transactions, current_call
from ha_scheduler.protocol.client import LockForgotten
from ha_scheduler.protocol.codec import tag_of

SEMAPHORES = "semaphore"  # name → its limits
CLOSED = "semaphore-closed"  # name → True: it was a lock
LEASES = "semaphore-lease"  # (name, lease id) → True

#: The most leases, seconds without a refresh, or None, and whether all who registered it would do
#: so again
Limits = tuple[int, float | None, bool]

LOCK_IDLE_SECONDS = 600.0
CLOSED_SECONDS = 2 * 3600.0  # who has not used a closed lock for so long will hardly miss the error

NOT_LEADING = math.inf  # when a lease was last seen by an engine that follows: never too long ago


class Semaphores(SemaphoreExtension):
    scheduler: SchedulerBase

    max_leases: dict[Any, int]
    lease_timeouts: dict[Any, float | None]
    leases: defaultdict[Any, dict[str, float]]

    def __init__(self, scheduler: SchedulerBase) -> None:
        super().__init__(scheduler)
        self._transactions: Transactions = scheduler.transactions
        self._renewable: set[Any] = set()
        self._used: dict[Any, float] = {}  # locks; the one that was not used for longest is first
        self._closed: dict[Any, float] = {}  # when; the earliest is first
        scheduler.handlers[tag_of(LockForgotten)] = self.is_forgotten
        add = scheduler.tables.add
        self._rows = add(Table(SEMAPHORES, apply=self._apply_semaphore, settle=self._restore))
        self._closed_rows = add(Table(CLOSED, apply=self._apply_closed))
        self._lease_rows = add(Table(LEASES, apply=self._apply_lease))

    # The ledger

    def _apply_semaphore(self, name: Any, value: Limits | Deleted) -> None:
        self._renewable.discard(name)
        if value is DELETED:
            self.max_leases.pop(name, None)
            self.lease_timeouts.pop(name, None)
            return
        self.max_leases[name], self.lease_timeouts[name], is_renewable = value
        if is_renewable:
            self._renewable.add(name)

    def _apply_closed(self, name: Any, value: bool | Deleted) -> None:
        if value is DELETED:
            self._closed.pop(name, None)
        else:
            self._closed[name] = 0.0

    def _apply_lease(self, at: tuple[Any, str], value: bool | Deleted) -> None:
        name, lease_id = at
        if value is DELETED:
            self.leases[name].pop(lease_id, None)
            if not self.leases[name]:
                del self.leases[name]
        else:
            self.leases[name][lease_id] = NOT_LEADING

    def _restore(self) -> None:
        """This engine leads, and holders can refresh their leases."""
        now = time()
        for leases in self.leases.values():
            leases.update(dict.fromkeys(leases, now))
        self._used = dict.fromkeys(self._renewable, monotonic())
        self._closed = dict.fromkeys(self._closed, monotonic())

    # What changes

    def create(self, name: Any, max_leases: int, lease_timeout: float | None) -> None:
        """As upstream's, and recorded. Raises ``ValueError``."""
        is_new = name not in self.max_leases
        super().create(name, max_leases, lease_timeout)
        call = current_call.get()
        would_renew = max_leases == 1 and call is not None and bool(call.session)
        if is_new or (name in self._renewable and not would_renew):
            row = (max_leases, self.lease_timeouts[name], would_renew)
            self._apply_semaphore(name, row)
            reopened = [self._closed_rows.delete(name)] if name in self._closed else []
            self._closed.pop(name, None)
            self._transactions.write(self._rows.set(name, row), *reopened)
        self._use(name)

    def _use(self, name: Any) -> None:
        self._used.pop(name, None)
        if name in self._renewable:
            self._used[name] = monotonic()

    def is_forgotten(self, name: Any) -> bool:
        """Whether the lock is unknown and was not closed."""
        return name not in self.max_leases and name not in self._closed

    def _get_lease(self, name: Any, lease_id: str) -> bool:
        is_new = lease_id not in self.leases[name]
        got = bool(super()._get_lease(name, lease_id))
        self._use(name)
        if got and is_new:
            self._transactions.write(self._lease_rows.set((name, lease_id), True))
        return got

    def _release_value(self, name: Any, lease_id: str) -> None:
        super()._release_value(name, lease_id)
        self._use(name)
        self._transactions.note(self._lease_rows.delete((name, lease_id)))

    def refresh_leases(self, name: Any = None, lease_ids: Any = None) -> None:
        """As upstream's: an unknown lease, which timed out, is given again.

        Not one of an unknown semaphore: it would never time out.
        """
        if name not in self.max_leases:
            return
        unknown = [lease_id for lease_id in lease_ids if lease_id not in self.leases[name]]
        super().refresh_leases(name, lease_ids)
        if unknown:
            self._transactions.write(*(self._lease_rows.set((name, i), True) for i in unknown))

    def close(self, name: Any = None) -> None:
        if name not in self.max_leases:
            return
        gone = [self._lease_rows.delete((name, lease_id)) for lease_id in self.leases.get(name, ())]
        if self.max_leases[name] == 1:
            self._closed[name] = monotonic()
            gone.append(self._closed_rows.set(name, True))
        self._drop(name)
        self._transactions.write(*gone, self._rows.delete(name))

    def _drop(self, name: Any) -> None:
        super().close(name)
        self._renewable.discard(name)
        self._used.pop(name, None)

    def _check_lease_timeout(self) -> None:
        if self.scheduler.recovery.is_open:  # holders cannot refresh before
            super()._check_lease_timeout()
            self._forget(monotonic())

    def _pending(self, name: Any) -> int:
        pending: dict[Any, int] = self.metrics["pending"]  # type: ignore[assignment]  # not typed
        return pending.get(name, 0)

    def _forget(self, now: float) -> None:
        gone: list[Change] = []
        idle = takewhile(lambda name: now - self._used[name] > LOCK_IDLE_SECONDS, self._used)
        for name in list(idle):
            if self.leases.get(name) or self._pending(name):
                self._use(name)
            else:
                self._drop(name)
                gone.append(self._rows.delete(name))
        for name in [name for name, at in self._closed.items() if now - at > CLOSED_SECONDS]:
            del self._closed[name]
            gone.append(self._closed_rows.delete(name))
        self._transactions.note(*gone)
