"""Exponential backoff with jitter.

Guarantee: pauses grow to a bound, and no two callers who lost the same peer at the same moment
retry at the same moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

FIRST_S, MAX_S = 0.02, 1.0


class Backoff:
    """The pauses of one series of attempts; each is between half of a ceiling and the ceiling."""

    def __init__(
        self,
        first_s: float = FIRST_S,
        max_s: float = MAX_S,
        growth: float = 2.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first_s, self._max_s, self._growth = first_s, max_s, growth
        self._uniform = uniform
        self._ceiling_s = first_s

    def reset(self) -> None:
        """An attempt succeeded: a new series begins."""
        self._ceiling_s = self._first_s

    def next_s(self) -> float:
        """The next pause in seconds."""
        ceiling_s = self._ceiling_s
        self._ceiling_s = min(self._max_s, ceiling_s * self._growth)
        return self._uniform(ceiling_s / 2, ceiling_s)

    async def pause(self, news: asyncio.Event | None = None) -> None:
        """Wait for the next pause, or until ``news`` is set."""
        if news is None:
            await asyncio.sleep(self.next_s())
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.next_s()):
                await news.wait()
