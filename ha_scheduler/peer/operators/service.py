"""Since when users wait: the moment at which this peer noticed that nobody serves. Pure.

A peer that has not seen anybody serve since its start does not know, and says nothing. Others say
how long ago they noticed; what one of them noticed much earlier than this peer was its own affair,
as of one that was cut off.
"""

from __future__ import annotations

from collections.abc import Iterable

APART_S = 5.0  # an election's silence, with room


class Service:
    def __init__(self) -> None:
        self._served = False
        self._noticed: float | None = None

    def tick(self, now: float, *, serves: bool) -> bool:
        """Whether somebody serves, as far as is known. Returns whether the loss was noticed now."""
        if serves:
            self._served, self._noticed = True, None
        elif self._served and self._noticed is None:
            self._noticed = now
            return True
        return False

    def waited_s(self, now: float) -> float:
        """For how long nobody has served; 0.0: somebody does, or it is not known."""
        return now - self._noticed if self._noticed is not None else 0.0

    def first_noticed(self, now: float, others_s: Iterable[float]) -> float | None:
        """When any peer noticed first; ``others_s``: how long ago the others did; 0.0: not."""
        own = self.waited_s(now)
        known = [waited for waited in others_s if waited and not (own and waited > own + APART_S)]
        longest = max([own, *known])
        return now - longest if longest else None
