"""For how long a client that is away is awaited: the time to live of its session.

Guarantee: nobody waits longer than the cell's own limit, whatever a client asks for.

A client that fell silent may be there: a laptop that sleeps, a network that is down. One whose
connection was closed has most often ended; it is awaited as long only if it asked for that, as it
does when its journal is on disk and another process may resume it. Which of the two it was a later
leader does not know: it takes a client of the ledger for one that is silent, and counts anew.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

SESSION_TTL_SECONDS = 2 * 3600.0  # a laptop may sleep over lunch
CLOSED_TTL_SECONDS = 60.0  # a program that is alive comes back within seconds

_SILENT = frozenset(
    {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}
)


@dataclass(frozen=True, slots=True)
class _Asked:
    silent_s: float
    closed_s: float


class Absence:
    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._asked: dict[str, _Asked] = {}

    def asked(self, client: str, *, silent_s: float, closed_s: float) -> None:
        """The client asks for these times; 0 for the usual one."""
        self._asked[client] = _Asked(silent_s, closed_s)

    def detached(self, client: str) -> None:
        """It closes its connection, and another process comes for its session."""
        silent_s = self._asked.get(client, _Asked(0.0, 0.0)).silent_s
        self._asked[client] = _Asked(silent_s, silent_s or self._limit_s)

    def forget(self, client: str) -> None:
        self._asked.pop(client, None)

    def seconds(self, client: str, *, silent: bool) -> float:
        """How long it is awaited."""
        asked = self._asked.get(client, _Asked(0.0, 0.0))
        if silent:
            return min(asked.silent_s or self._limit_s, self._limit_s)
        return min(asked.closed_s or CLOSED_TTL_SECONDS, self._limit_s)

    def why_given_up(self) -> str:
        """For a client that comes back too late."""
        return (
            f"This client was away for longer than the cell keeps what it wants: "
            f"{_span(self._limit_s)} when it falls silent (--session-ttl of the peers, and "
            f"ha.client.session-ttl, which may ask for less), "
            f"{_span(CLOSED_TTL_SECONDS)} when its connection is closed and its journal is not on "
            f"disk. Its results were released; submit the work again."
        )


def is_silence(ended: BaseException | None) -> bool:
    """Whether a connection ended because nothing was heard, and not because it was closed."""
    while ended is not None:
        if isinstance(ended, TimeoutError) or getattr(ended, "errno", None) in _SILENT:
            return True
        ended = ended.__cause__
    return False


def _span(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:g} h"
    return f"{seconds / 60:g} min" if seconds >= 120 else f"{seconds:g} s"
