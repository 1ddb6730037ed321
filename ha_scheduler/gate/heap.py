"""What a crowd of connections had goes back to the system when the crowd has gone.

glibc keeps what is freed in the midst of its heap, and a daemon that 4,000 watchers had left would
stay as large as with them. ``malloc_trim`` gives it back. That takes some ten milliseconds, so it
is asked for when half of a crowd has gone, and ``SETTLE_S`` later: the other half is mostly on its
way.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

CROWD_MIN = 128  # connections; what fewer had is not worth the time
SETTLE_S = 1.0


def trim() -> None:
    """Give back what nobody uses in the heap of this process; only free it without glibc.

    A connection that was reset leaves a cycle of exception and frames, which the collector would
    find at some time.
    """
    gc.collect()
    found = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if found is not None:
        found(0)


class Heap:
    """Counts the connections of a port, and has the heap trimmed."""

    def __init__(
        self, later: Callable[[float, Callable[[], None]], object], trim: Callable[[], None] = trim
    ) -> None:
        """``later``: calls something after so many seconds."""
        self._later = later
        self._trim = trim
        self._open = 0
        self._most = 0  # since the heap was trimmed
        self._due = False

    def held(self, connections: int) -> None:
        """So many are open now."""
        self._open = connections
        self._most = max(self._most, connections)
        if not self._due and self._most >= CROWD_MIN and connections <= self._most // 2:
            self._due = True
            self._later(SETTLE_S, self._now)

    def _now(self) -> None:
        self._due = False
        self._most = self._open
        self._trim()
