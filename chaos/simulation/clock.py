"""True time and what is due in it, and the clocks of hosts, which know the true time only roughly.

Guarantee: one thread and one order. What is due at the same moment happens in the order in which it
was asked for, so a seed plays the same history on every machine.

A host's clock is CLOCK_MONOTONIC: it starts anywhere, never goes back and runs at a rate near 1
that may change, always within the bounds that its world was given. A lease is safe while the rates
of two hosts differ by less than its margin allows (``drift_allowed``).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Timeline:
    """What is due, by true time in seconds from the beginning of the world."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._asked = 0

    def after(self, delay_s: float, call: Callable[..., object], *args: Any) -> None:
        """``call(*args)`` in ``delay_s`` seconds."""
        self._asked += 1
        heapq.heappush(self._due, (self.now + delay_s, self._asked, call, args))

    def step(self) -> None:
        """Do what is due next."""
        self.now, _, call, args = heapq.heappop(self._due)
        self.events += 1
        call(*args)

    def run_until(self, end_s: float) -> None:
        """Do everything that is due until then."""
        while self._due and self._due[0][0] <= end_s:
            self.step()
        self.now = end_s


class HostClock:
    """CLOCK_MONOTONIC of one host."""

    def __init__(self, timeline: Timeline, begins_at: float, rate: float) -> None:
        self._timeline = timeline
        self._local = begins_at
        self._since = timeline.now
        self._rate = rate

    def now(self) -> float:
        """Seconds on this clock."""
        return self._local + (self._timeline.now - self._since) * self._rate

    def run_at(self, rate: float) -> None:
        """From now on it gains ``rate`` seconds in a true one."""
        self._local, self._since, self._rate = self.now(), self._timeline.now, rate

    def true_seconds(self, local_s: float) -> float:
        """How long ``local_s`` of its seconds take, at its present rate."""
        return local_s / self._rate


def drift_allowed(election_ticks: int, margin_ticks: int) -> float:
    """The ratio of two clocks' rates below which a lease is safe.

    The slow leader trusts its lease for ``election - margin`` of its ticks after a message left.
    The fast follower refuses others for at least ``election - 1`` of its own after it came: the
    first of them may end at once.
    """
    return (election_ticks - 1) / (election_ticks - margin_ticks)
