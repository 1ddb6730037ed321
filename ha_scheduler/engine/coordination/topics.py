"""Topics: what clients and tasks log (``log_event``), and who hears of it.

Guarantee: the latest ``EVENTS_PER_TOPIC_MAX`` events that a client, a task or a nanny logged under
a topic are rows of the ledger. A subscriber hears of an event when it has committed; one whose
leader died says which event it heard last, and hears of those after it. The scheduler's own events,
and those of workers about themselves, are a diary of the leader and end with it.

The time of an event is its place: within a topic it only rises, across leaders too.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from distributed.broker import Broker
from distributed.metrics import time

from ha_scheduler.engine.coordination.book import Book
from ha_scheduler.engine.values import GONE

logger = logging.getLogger(__name__)

EVENTS = "topic-event"  # (topic, number modulo the most) → (number, time, message)

EVENTS_PER_TOPIC_MAX = 1000  # in the ledger; as distributed.admin.low-level-log-length has it
TOPICS_MAX = 10_000  # in the ledger; events of further topics end with their leader
TICK_S = 1e-6  # between two events that the clock does not tell apart

# What workers log about themselves (worker.py:1453, 2508 and 217), besides under their addresses
_DIARY = frozenset({"all", "worker-get-client", "worker-fail-hard"})

Event = tuple[float, Any]


class Topics(Broker):
    """The scheduler's broker."""

    def __init__(self, maxlen: int, scheduler: Any) -> None:
        super().__init__(maxlen, scheduler)
        self._book: Book = scheduler.book
        self._numbers: dict[str, int] = {}
        self._times: dict[str, float] = {}
        self._rows: dict[str, dict[int, Event]] = {}
        scheduler.values.keep(EVENTS, self._apply)

    def _apply(self, at: tuple[str, int], value: Any) -> None:
        if value is not GONE:
            number, when, message = value
            self._rows.setdefault(at[0], {})[at[1]] = (when, message)
            self._numbers[at[0]] = max(number, self._numbers.get(at[0], 0))

    def activated(self) -> None:
        """This engine leads."""
        for name, rows in self._rows.items():
            events = sorted(rows.values(), key=lambda event: event[0])
            self._topics[name].events.extend(events)
            self._topics[name].count = self._numbers[name]
            self._times[name] = events[-1][0]
        self._rows.clear()

    def log(self, topics: str | Collection[str], message: Any) -> None:
        """Publish what must be there after a failover as well."""
        names = [topics] if isinstance(topics, str) else list(topics)
        kept = [name for name in names if self._is_kept(name)]
        events = {name: (self._next_time(name), message) for name in kept}
        changes = []
        for name, event in events.items():
            number = self._numbers[name] = self._numbers.get(name, 0) + 1
            changes.append((EVENTS, (name, number % EVENTS_PER_TOPIC_MAX), (number, *event)))
            self._topics[name].publish(event)
            self._tell_plugins(name, message)
        if changes:
            self._book.write(*changes)
            self._scheduler._ongoing_background_tasks.call_soon(self._tell, events)
        if len(kept) < len(names):
            self.publish([name for name in names if name not in events], message)

    def _is_kept(self, name: str) -> bool:
        if name in _DIARY or "://" in name:
            return False
        return name in self._numbers or len(self._numbers) < TOPICS_MAX

    def _next_time(self, name: str) -> float:
        self._times[name] = max(float(time()), self._times.get(name, 0.0) + TICK_S)
        return self._times[name]

    def _tell_plugins(self, name: str, message: Any) -> None:
        for plugin in list(self._scheduler.plugins.values()):
            try:
                plugin.log_event(name, message)
            except Exception:
                logger.exception("A plugin failed on an event.", extra={"action": "plugin-failed"})

    async def _tell(self, events: dict[str, Event]) -> None:
        await self._book.settled()
        for name, event in events.items():
            self._send_to_subscribers(name, event)

    def catch_up(self, topic: str, client: str, after: float) -> None:
        """A subscriber of an earlier leader is back: it has heard of everything up to ``after``."""
        missed = [event for event in self._topics[topic].events if event[0] > after]
        messages = [{"op": "event", "topic": topic, "event": event} for event in missed]
        self._scheduler.send_all({client: messages}, {})


class Logs:
    """The part of our Scheduler that is asked to log; a mixin before upstream's class."""

    # Of the class that this is mixed into
    _broker: Topics

    def log_asked(self, topic: str | Collection[str], msg: Any) -> None:
        """``log_event`` of a client or a nanny."""
        self._broker.log(topic, msg)

    def log_worker_event(self, worker: str, topic: str | Collection[str], msg: Any) -> None:
        """As upstream's (scheduler.py:7829), and recorded."""
        if isinstance(msg, dict) and worker != topic:
            msg["worker"] = worker
        self._broker.log(topic, msg)

    def subscribe_topic(self, topic: str, client: str, after: float | None = None) -> None:
        """As upstream's; ``after``: the time of the last event that the client has heard of."""
        super().subscribe_topic(topic, client)  # type: ignore[misc]
        if after is not None:
            self._broker.catch_up(topic, client, after)
