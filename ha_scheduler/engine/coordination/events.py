"""``distributed.Event``: a flag, and who waits for it.

Guarantee: the flag is a row of the ledger while it is set. Who waits when it is set is let go, even
if it is cleared before the waiter, whose leader died, can ask again: a wait is a row too, and
setting the flag answers it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from distributed.event import EventExtension

from ha_scheduler.engine.coordination.book import DELETED, Book, Call, current_call
from ha_scheduler.engine.values import GONE

EVENTS = "event"  # name → True while it is set
WAITERS = "event-waiter"  # (name, session, slot, sequence): a numbered wait → True

Waiter = tuple[Any, str, int, int]


class Events(EventExtension):
    """The scheduler's event extension."""

    _events: dict[Any, asyncio.Event]
    _waiter_count: dict[Any, int]

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        self._book: Book = scheduler.book
        self._waiters: dict[Waiter, None] = {}
        scheduler.values.keep(EVENTS, self._apply_event)
        scheduler.values.keep(WAITERS, self._apply_waiter)

    # The ledger

    def _apply_event(self, name: Any, value: Any) -> None:
        if value is GONE:
            self._delete_event(name)
        else:
            self._events[name].set()

    def _apply_waiter(self, waiter: Waiter, value: Any) -> None:
        if value is GONE:
            self._waiters.pop(waiter, None)
        else:
            self._waiters[waiter] = None

    def activated(self) -> None:
        """This engine leads. What an earlier leader set, it may not have told everybody."""
        for waiter in list(self._waiters):
            if waiter[1] not in self.scheduler.sessions.calls:
                self._forget(waiter)
        for name in {waiter[0] for waiter in self._waiters}:
            if self.event_is_set(name):
                self._answer_waiters(name)

    # What changes

    def event_set(self, name: Any = None) -> None:
        """As upstream's, and recorded."""
        name = self._normalize_name(name)
        if not self.event_is_set(name):
            self._book.write((EVENTS, name, True))
            self._answer_waiters(name)
        super().event_set(name)

    def event_clear(self, name: Any = None) -> None:
        """As upstream's, and recorded."""
        if self.event_is_set(name):
            self._book.write((EVENTS, self._normalize_name(name), DELETED))
        super().event_clear(name)

    async def event_wait(self, name: Any = None, timeout: float | None = None) -> bool:
        """As upstream's; a wait that is numbered is answered when the event is set."""
        name = self._normalize_name(name)
        call = current_call.get()
        if call is None or not call.session or self.event_is_set(name):
            return bool(await super().event_wait(name, timeout))
        waiter = (name, call.session, call.slot, call.sequence)
        if waiter not in self._waiters:
            self._waiters[waiter] = None
            self._book.note((WAITERS, waiter, True))
        try:
            return bool(await super().event_wait(name, timeout))
        finally:
            if waiter in self._waiters:
                self._forget(waiter)

    def _answer_waiters(self, name: Any) -> None:
        for waiter in [waiter for waiter in self._waiters if waiter[0] == name]:
            del self._waiters[waiter]
            call = Call("event_wait", *waiter[1:])
            self._book.answer(call, (WAITERS, waiter, DELETED), answer=True)

    def _forget(self, waiter: Waiter) -> None:
        del self._waiters[waiter]
        self._book.note((WAITERS, waiter, DELETED))
