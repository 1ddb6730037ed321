"""``distributed.Event``: a flag, and its waiters.

Guarantee: the flag is a row while it is set. Setting it answers everyone who waits, even a waiter
whose leader died and who asks again after the flag was cleared: a numbered wait is a row too. That
row goes when the wait is answered or over, its slot is used for another call, or its session ends.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from distributed.event import EventExtension

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.tables import DELETED, Deleted, Table
from ha_scheduler.engine.stream.transactions import Call, Transactions, current_call

EVENTS = "event"  # name → True while it is set
WAITERS = "event-waiter"  # (session, slot) of a numbered wait → (name, sequence)

Place = tuple[str, int]


class Events(EventExtension):
    scheduler: SchedulerBase

    _events: defaultdict[Any, asyncio.Event]
    _waiter_count: defaultdict[Any, int]

    def __init__(self, scheduler: SchedulerBase) -> None:
        super().__init__(scheduler)
        self._transactions: Transactions = scheduler.transactions
        scheduler.calls.on_end.append(self._forget_ended)
        scheduler.calls.on_next.append(self._forget_earlier)
        self._event_rows = scheduler.tables.add(Table(EVENTS, apply=self._apply_event))
        self._waiters: dict[Place, tuple[Any, int]] = {}
        self._waiter_rows = scheduler.tables.add(
            Table(WAITERS, self._waiters, settle=self._restore)
        )

    # The ledger

    def _apply_event(self, name: Any, value: bool | Deleted) -> None:
        if value is DELETED:
            self._delete_event(name)
        else:
            self._events[name].set()

    def _restore(self) -> None:
        """This engine leads: answer the waiters of events that an earlier leader set."""
        self._forget_ended()
        for name in {name for name, _ in self._waiters.values()}:
            if self.event_is_set(name):
                self._answer_waiters(name)

    # What changes

    def event_set(self, name: Any = None) -> None:
        name = self._normalize_name(name)
        if not self.event_is_set(name):
            self._transactions.write(self._event_rows.set(name, True))
            self._answer_waiters(name)
        super().event_set(name)

    def event_clear(self, name: Any = None) -> None:
        if self.event_is_set(name):
            self._transactions.write(self._event_rows.delete(self._normalize_name(name)))
        super().event_clear(name)

    async def event_wait(self, name: Any = None, timeout: float | None = None) -> bool:
        """As upstream's; a numbered wait is recorded, and answered when the event is set."""
        name = self._normalize_name(name)
        call = current_call.get()
        if call is None or not call.session or self.event_is_set(name):
            return bool(await super().event_wait(name, timeout))
        place, waiter = (call.session, call.slot), (name, call.sequence)
        if self._waiters.get(place) != waiter:
            self._transactions.note(self._waiter_rows.set(place, waiter))
        try:
            return bool(await super().event_wait(name, timeout))
        finally:
            if self._waiters.get(place) == waiter:
                self._forget(place)

    def _answer_waiters(self, name: Any) -> None:
        for place, (waits_for, sequence) in list(self._waiters.items()):
            if waits_for == name:
                call = Call("event_wait", *place, sequence)
                self._transactions.answer(call, self._waiter_rows.delete(place), answer=True)

    def _forget(self, place: Place) -> None:
        self._transactions.note(self._waiter_rows.delete(place))

    def _forget_ended(self) -> None:
        for place in [p for p in self._waiters if p[0] not in self.scheduler.sessions.calls]:
            self._forget(place)

    def _forget_earlier(self, call: Call) -> None:
        place = (call.session, call.slot)
        if place in self._waiters and self._waiters[place][1] < call.sequence:
            self._forget(place)
