"""The watchdog: whether an engine hangs. It measures progress, not time. Pure.

Guarantee: an engine hangs if its event loop has not answered for ``patience_s`` while nothing of a
client was open, or if something open has made no progress for that long. So a graph may take as
long as it likes while its tasks come into being, and a loop without end in what a client sent is
noticed in whichever thread it runs.

Time is counted in the daemon's own wakings of ``EVERY_S``: a daemon that was frozen, perhaps with
its engine, must not blame the engine for the silence.
"""

from __future__ import annotations

from collections.abc import Sequence

EVERY_S = 0.5  # between two observations
START_S = 60.0  # at least, until it answers for the first time: it imports Dask meanwhile

Clock = tuple[int, float, float]  # of an exposure: slot, last progress, patience in seconds


class Watchdog:
    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._silent_s = 0.0
        self._still: dict[tuple[int, float], float] = {}  # exposure without progress since → s

    def observe(self, heard: bool, clocks: Sequence[Clock], *, started: bool = True) -> str:
        """One waking; why the engine hangs, or empty.

        ``heard``: the loop has answered, or the daemon is not listening. ``started``: it has
        answered before.
        """
        self._silent_s = 0.0 if heard or clocks else self._silent_s + EVERY_S
        former, self._still = self._still, {}
        for slot, at, patience_s in clocks:
            still_s = former.get((slot, at), -EVERY_S) + EVERY_S
            self._still[slot, at] = still_s
            if still_s > self._patience_s + patience_s:
                return f"what a client sent made no progress for {still_s:.1f} s"
        if self._silent_s > (self._patience_s if started else max(self._patience_s, START_S)):
            return f"its event loop made no progress for {self._silent_s:.1f} s"
        return ""
