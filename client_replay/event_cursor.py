"""Which events of topics a client has heard of, so that it hears of each of them once.

What a client logs is told when it has committed, what a worker logs at once, so that a task's
output comes before its result. Events are therefore not always told in the order of their times,
and the last that was heard of may be one that the next leader does not have. So a subscription that
is made again reaches back by ``OVERLAP_S``, and what comes a second time is dropped.
"""

from __future__ import annotations

from collections import deque

OVERLAP_S = 60.0  # longer than a commit takes, and than the clocks of two peers may differ
EVENTS_MAX = 1_000  # remembered of each topic; a leader keeps no more of one


class EventCursor:
    """Of all topics of one client. Within a topic an event is known by its time."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}  # events of the topic after that time are told
        self._times: dict[str, deque[float]] = {}

    def subscribed(self, topic: str, after: float) -> None:
        """A leader tells of events after that time, and has told of those before."""
        self._since[topic] = max(after, self._since.get(topic, 0.0))

    def is_new(self, topic: str, when: float) -> bool:
        """Whether this event has not been heard of. From now on it has."""
        times = self._times.setdefault(topic, deque(maxlen=EVENTS_MAX))
        if when in times:
            return False
        times.append(when)
        return True

    def after(self, topic: str) -> float | None:
        """From when on a new leader is to tell; None if there is nothing to go on from."""
        times = self._times.get(topic, ())
        bounds = [self._since[topic]] if topic in self._since else []
        if times:
            bounds.append(max(times) - OVERLAP_S)
        if len(times) == EVENTS_MAX:
            bounds.append(min(times))  # what was heard of before is no longer remembered
        return max(bounds, default=None)
