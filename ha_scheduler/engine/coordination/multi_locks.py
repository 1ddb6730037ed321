"""``distributed.MultiLock``: several locks at once.

Guarantee: who asked for which locks, and when, is a row of the ledger each; who holds what follows
from it. A request that is repeated after a failover has kept its places in the lines.

The rows hold what is left of a request: one that is served at once gives up the locks that it did
not need. In the line of each lock the requests stand in the order in which they came. To ask again
under an id that has asked changes nothing, so an ``acquire`` in wait needs no answer that is kept.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from distributed.multi_lock import MultiLockExtension
from distributed.utils import Deadline, wait_for

from ha_scheduler.engine.coordination.book import DELETED, Book
from ha_scheduler.engine.values import GONE

REQUESTS = "multi-lock"  # id → (number of its coming, locks, how many of them it needs)


class MultiLocks(MultiLockExtension):
    """The scheduler's extension for locks of several names."""

    locks: dict[str, list[str]]
    requests: dict[str, set[str]]
    requests_left: dict[str, int]
    events: dict[str, asyncio.Event]

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        self._book: Book = scheduler.book
        self._rows: dict[str, tuple[int, tuple[str, ...], int]] = {}
        self._last = 0
        # One whose leader died is perhaps not back yet when its turn comes.
        self.events = defaultdict(asyncio.Event)
        # What is kept is the answer of an ``acquire`` in vain; a release has none.
        scheduler.calls.present["multi_lock_release"] = lambda answer: None
        scheduler.values.keep(REQUESTS, self._apply)

    # The ledger

    def _apply(self, id: str, value: Any) -> None:
        if value is GONE:
            self._rows.pop(id, None)
        else:
            self._rows[id] = value

    def activated(self) -> None:
        """This engine leads: put everybody where they stood."""
        for id, (number, locks, needed) in sorted(self._rows.items(), key=lambda row: row[1][0]):
            self._last = number
            self.requests[id] = set(locks)
            for lock in locks:
                self.locks[lock].append(id)
            self.requests_left[id] = max(0, needed - self._first_in(id))
        self._rows.clear()

    def _first_in(self, id: str) -> int:
        return sum(self.locks[lock][0] == id for lock in self.requests[id])

    # What changes

    def _request_locks(self, locks: list[str], id: str, num_locks: int) -> bool:
        served = bool(super()._request_locks(locks, id, num_locks))
        self._last += 1
        left = tuple(sorted(self.requests[id]))
        self._book.note((REQUESTS, id, (self._last, left, num_locks)))
        return served

    def _retain_locks(self, locks: Any, id: str) -> None:
        super()._retain_locks(locks, id)
        self._book.write((REQUESTS, id, DELETED), answer=False)

    async def acquire(
        self,
        locks: Any = None,
        id: str = "",
        timeout: float | None = None,
        num_locks: int = 0,
    ) -> bool:
        """As upstream's; one who has asked before goes on waiting in the same places."""
        deadline = Deadline.after(timeout)
        if id not in self.requests and self._request_locks(locks, id, num_locks):
            return True
        try:
            while self.requests_left[id]:
                await wait_for(self.events[id].wait(), deadline.remaining)
        except (TimeoutError, asyncio.CancelledError):
            self._retain_locks(self.requests[id], id)
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            return False
        finally:
            self.events.pop(id, None)
        return True
