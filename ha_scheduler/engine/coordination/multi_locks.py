"""``distributed.MultiLock``: several locks at once.

Guarantee: a row for each request says which locks it asked for and when; who holds what follows
from that. A repeated request keeps its places in the queues.

A row holds what is left of a request: one that is served at once gives up the locks that it did not
need. Requests queue for each lock in the order of their coming. To ask again under the same id
changes nothing, so a waiting ``acquire`` needs no kept answer; it leaves the queues when its slot
is used for another call. Locks are held until released, or until the session that took them ends; a
new leader looks for those that ended before. Locks taken without a session (by a client of
upstream's kind) are kept, as with upstream.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from distributed.multi_lock import MultiLockExtension
from distributed.utils import Deadline

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.tables import Table
from ha_scheduler.engine.stream.transactions import Call, Transactions, current_call

REQUESTS = "multi-lock"  # id → the request

CallNumber = tuple[str, int, int]
#: Number of its coming, locks, how many of them it needs, and the session, slot and sequence of the
#: call that asked, or none if it is not numbered
LockRequest = tuple[int, tuple[str, ...], int, CallNumber | None]


class MultiLocks(MultiLockExtension):
    scheduler: SchedulerBase

    locks: defaultdict[str, list[str]]

    def __init__(self, scheduler: SchedulerBase) -> None:
        super().__init__(scheduler)
        self._transactions: Transactions = scheduler.transactions
        self._asked: dict[str, CallNumber] = {}  # by which call, of requests that are numbered
        self._at: dict[tuple[str, int], str] = {}  # the latest request of a session's slot
        self._last = 0
        # One whose leader died is perhaps not back yet when its turn comes.
        self.events = defaultdict(asyncio.Event)
        # What is kept is the answer of an ``acquire`` in vain; a release has none.
        scheduler.calls.present["multi_lock_release"] = lambda answer: None
        scheduler.calls.on_end.append(self._forget_ended)
        scheduler.calls.on_next.append(self._forget_earlier)
        self._requests: Table[str, LockRequest] = scheduler.tables.add(
            Table(REQUESTS, settle=self._restore)
        )

    def _restore(self) -> None:
        """This engine leads: restore the queues."""
        rows = sorted(self._requests.rows.items(), key=lambda row: row[1][0])
        for id, (number, locks, needed, asked) in rows:
            self._last = number
            self._note_call(id, asked)
            self.requests[id] = set(locks)
            for lock in locks:
                self.locks[lock].append(id)
            first = sum(self.locks[lock][0] == id for lock in locks)
            self.requests_left[id] = max(0, needed - first)
        self._forget_ended()

    # What changes

    def _request_locks(self, locks: list[str], id: Any, num_locks: int) -> bool:
        served = bool(super()._request_locks(locks, id, num_locks))
        self._last += 1
        left = tuple(sorted(self.requests[id]))
        asked = _number()
        self._note_call(id, asked)
        self._transactions.note(self._requests.set(id, (self._last, left, num_locks, asked)))
        return served

    def _note_call(self, id: str, asked: CallNumber | None) -> None:
        if asked is not None:
            self._asked[id] = asked
            self._at[asked[:2]] = id

    def _retain_locks(self, locks: Any, id: Any) -> None:
        self._leave_lines(locks, id)
        self._transactions.write(self._requests.delete(id), answer=False)

    def _leave_lines(self, locks: Any, id: str) -> None:
        super()._retain_locks(locks, id)
        asked = self._asked.pop(id, None)
        if asked is not None and self._at.get(asked[:2]) == id:
            del self._at[asked[:2]]

    def _forget_ended(self) -> None:
        live = self.scheduler.sessions.calls
        for id in [id for id, asked in self._asked.items() if asked[0] not in live]:
            self._remove(id)

    def _forget_earlier(self, call: Call) -> None:
        id = self._at.get((call.session, call.slot))
        if id is not None and self._asked[id][2] < call.sequence and self.requests_left[id]:
            self._remove(id)  # it waits, and nobody waits for the answer

    def _remove(self, id: str) -> None:
        """The request waits no longer, and holds nothing."""
        self._leave_lines(self.requests[id], id)
        self._transactions.note(self._requests.delete(id))

    async def acquire(
        self, locks: Any = None, id: str = "", timeout: float | None = None, num_locks: int = 0
    ) -> bool:
        """As upstream's; a repeated request waits on in the same places."""
        deadline = Deadline.after(timeout)
        asked = _number()
        if id in self.requests:
            self._note_call(id, asked)
        elif self._request_locks(locks, id, num_locks):
            return True
        try:
            while self.requests_left[id]:
                async with asyncio.timeout(deadline.remaining):
                    await self.events[id].wait()
        except (TimeoutError, asyncio.CancelledError):
            if self._is_that_of(id, asked):
                self._retain_locks(self.requests[id], id)
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return False
        finally:
            if self._is_that_of(id, asked) or id not in self.requests:
                self.events.pop(id, None)
        return True

    def _is_that_of(self, id: str, asked: CallNumber | None) -> bool:
        """Whether the request is this call's, and not a later one under the same id."""
        return id in self.requests and self._asked.get(id) == asked


def _number() -> CallNumber | None:
    """The number of the call in progress, if it has one."""
    call = current_call.get()
    return (call.session, call.slot, call.sequence) if call is not None and call.session else None
