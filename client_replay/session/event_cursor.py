"""Which events of topics a client has heard of, so that it hears each once.

A client's event is told after its commit, a worker's at once, so that a task's output comes before
its result. So events may come out of order, and the last one heard of may be unknown to the next
leader. A renewed subscription reaches back by ``OVERLAP_S``, and repeated events are dropped.
"""

from __future__ import annotations

from collections import deque

OVERLAP_S = 60.0  # longer than a commit takes, and than the clocks of two peers may differ
EVENTS_MAX = 1_000  # remembered of each topic; a leader keeps no more of one


class EventCursor:
    """For all topics of one client. Within a topic an event is known by its time."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}  # events of the topic after that time are told
        self._times: dict[str, deque[float]] = {}

    def subscribed(self, topic: str, after: float) -> None:
        """A leader sends events after that time, and has sent those before."""
        self._since[topic] = max(after, self._since.get(topic, 0.0))

    def is_new(self, topic: str, when: float) -> bool:
        """Whether the event is new; it is not from now on."""
        times = self._times.setdefault(topic, deque(maxlen=EVENTS_MAX))
        if when in times:
            return False
        times.append(when)
        return True

    def after(self, topic: str) -> float | None:
        """The time after which a new leader has to send events; None if none is known."""
        times = self._times.get(topic, ())
        bounds = [self._since[topic]] if topic in self._since else []
        if times:
            bounds.append(max(times) - OVERLAP_S)
        if len(times) == EVENTS_MAX:
            bounds.append(min(times))  # what was heard of before is no longer remembered
        return max(bounds, default=None)
