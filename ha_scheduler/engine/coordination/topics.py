"""Topics: what clients and tasks log (``log_event``), and who hears of it.

Guarantee: the latest ``EVENTS_PER_TOPIC_MAX`` events that a client, a task or a nanny logged under
a topic are rows. Beyond ``EVENTS_BYTES_MAX`` of all topics the oldest end with the leader, and so
does an event larger than ``EVENT_BYTES_MAX``. The scheduler's own events and those of workers about
themselves are a diary of the leader, and end with it.

A subscriber hears of an event once. A client's event is told after its commit, for the client
repeats what a leader took with it. A worker repeats nothing, so its event is told at once, before
the result of its task. A subscriber is told where it begins, and tells the next leader from when on
it may have missed something (``client_replay/session/event_cursor.py``).

The time of an event is its place: within a topic it only rises, across leaders too.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from typing import Any

from distributed.broker import Broker
from distributed.metrics import time
from distributed.protocol.pickle import dumps

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.tables import Change, Table
from ha_scheduler.engine.stream.transactions import Transactions
from ha_scheduler.protocol.client import Subscribed
from ha_scheduler.protocol.codec import to_op

logger = logging.getLogger(__name__)

EVENTS = "topic-event"  # (topic, number modulo the most) → (number, time, bytes, message)

EVENTS_PER_TOPIC_MAX = 1000  # in the ledger; as distributed.admin.low-level-log-length has it
EVENT_BYTES_MAX = 1024 * 1024  # bytes of one event in the ledger
EVENTS_BYTES_MAX = 256 * 1024 * 1024  # bytes of all events in the ledger
ROW_BYTES = 200  # bytes that an event takes besides its message
TICK_S = 1e-6  # between two events that the clock does not tell apart

# What workers log about themselves (worker.py:1453, 2508 and 217), besides under their addresses
_DIARY = frozenset({"all", "worker-get-client", "worker-fail-hard"})

Event = tuple[float, Any]
Place = tuple[str, int]


class Topics(Broker):
    def __init__(self, maxlen: int, scheduler: SchedulerBase) -> None:
        super().__init__(maxlen, scheduler)
        self._transactions: Transactions = scheduler.transactions
        self._numbers: dict[str, int] = {}
        self._times: dict[str, float] = {}
        self._told: dict[str, float] = {}  # topic → the time of the last event that was told
        self._sizes: dict[Place, int] = {}  # bytes of what is in the ledger, the oldest first
        self._bytes = 0
        self._events: Table[Place, tuple[int, float, int, Any]] = scheduler.tables.add(
            Table(EVENTS, settle=self._restore)
        )

    def _restore(self) -> None:
        rows = sorted(self._events.rows.items(), key=lambda row: row[1][1])
        for at, (number, when, size, message) in rows:
            name = at[0]
            self._topics[name].events.append((when, message))
            self._topics[name].count = self._numbers[name] = number
            self._times[name] = self._told[name] = when
            self._weigh(at, size)

    def log(self, topics: str | Collection[str], message: Any, *, at_once: bool = False) -> None:
        """Publish an event that must survive a failover.

        ``at_once``: nobody will repeat it, so subscribers hear of it before its commit.
        """
        names = [topics] if isinstance(topics, str) else list(topics)
        told = [name for name in names if name not in _DIARY and "://" not in name]
        events = {name: (self._next_time(name), message) for name in told}
        for name, event in events.items():
            self._topics[name].publish(event)
            self._tell_plugins(name, message)
        if events:
            self._transactions.write(*self._keep(events, len(dumps(message))))
            if at_once:
                self._tell(events)
            else:
                self._scheduler._ongoing_background_tasks.call_soon(self._tell_later, events)
        if len(told) < len(names):
            self.publish([name for name in names if name not in events], message)

    def _keep(self, events: dict[str, Event], size: int) -> Iterator[Change]:
        """The changes to record: the oldest events make room for these."""
        if size > EVENT_BYTES_MAX:
            return
        for name, (when, message) in events.items():
            number = self._numbers[name] = self._numbers.get(name, 0) + 1
            at = (name, number % EVENTS_PER_TOPIC_MAX)
            self._weigh(at, size + ROW_BYTES)
            yield self._events.set(at, (number, when, size + ROW_BYTES, message))
        while self._bytes > EVENTS_BYTES_MAX:
            oldest = next(iter(self._sizes))
            self._bytes -= self._sizes.pop(oldest)
            yield self._events.delete(oldest)

    def _weigh(self, at: Place, size: int) -> None:
        self._bytes += size - self._sizes.pop(at, 0)
        self._sizes[at] = size

    def _next_time(self, name: str) -> float:
        self._times[name] = max(float(time()), self._times.get(name, 0.0) + TICK_S)
        return self._times[name]

    def _tell_plugins(self, name: str, message: Any) -> None:
        for plugin in list(self._scheduler.plugins.values()):
            try:
                plugin.log_event(name, message)
            except Exception:  # the code of users
                logger.exception("A plugin failed on an event.", extra={"action": "plugin_failed"})

    async def _tell_later(self, events: dict[str, Event]) -> None:
        await self._transactions.settled()
        self._tell(events)

    def _tell(self, events: dict[str, Event]) -> None:
        for name, event in events.items():
            self._told[name] = max(event[0], self._told.get(name, 0.0))
            self._send_to_subscribers(name, event)

    def told(self, topic: str) -> float:
        """The time of the last event that subscribers have heard of."""
        if topic in self._told:
            return self._told[topic]
        events = [] if topic in self._times else self._topics[topic].events  # those of a diary
        return float(events[-1][0]) if events else 0.0

    def catch_up(self, topic: str, client: str, after: float) -> None:
        """A subscriber of an earlier leader returns; it has heard of events up to ``after``."""
        until = self.told(topic)  # later ones are about to be told to everybody
        missed = [event for event in self._topics[topic].events if after < event[0] <= until]
        messages = [{"op": "event", "topic": topic, "event": event} for event in missed]
        self._scheduler.send_all({client: messages}, {})


class Logs(SchedulerBase):
    _broker: Topics

    def log_asked(self, topic: str | Collection[str], msg: Any) -> None:
        self._broker.log(topic, msg)

    def log_worker_event(self, worker: str, topic: str | Collection[str], msg: Any) -> None:
        """As upstream's (scheduler.py:7829), and recorded."""
        if isinstance(msg, dict) and worker != topic:
            msg["worker"] = worker
        self._broker.log(topic, msg, at_once=True)

    def subscribe_topic(self, topic: str, client: str, after: float | None = None) -> None:
        """As upstream's; ``after``: the time of the last event that the client has heard of.

        A client of ours is told where it begins, and repeats that to the next leader.
        """
        super().subscribe_topic(topic, client)
        if after is not None:
            self._broker.catch_up(topic, client, after)
        if client in self.session_of:
            told = to_op(Subscribed(topic, self._broker.told(topic)))
            self.send_all({client: [told]}, {})
