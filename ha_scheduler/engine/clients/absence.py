"""For how long a client that is away is awaited: the time to live of its session.

Guarantee: nobody waits longer than the cell's own limit, whatever a client asks for. What it asks
for, and whether its connection was closed, is known to every later leader, which counts anew.

A client that fell silent may be there: a laptop that sleeps, a network that is down. One whose
connection was closed has most often ended; it is awaited as long only if it asked for that, as it
does when its journal is on disk and another process may resume it. Of a connection that ended with
its leader nobody can tell: that client counts as silent.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from ha_scheduler.engine.stream.tables import Table
from ha_scheduler.engine.stream.transactions import Transactions

ABSENCE = "absence"  # client → for how long it is kept silent and closed, and whether it is closed
SESSION_TTL_SECONDS = 2 * 3600.0  # a laptop may sleep over lunch
CLOSED_TTL_SECONDS = 60.0  # a program that is alive comes back within seconds

_SILENT = frozenset(
    {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}
)


class _Asked(NamedTuple):
    silent_s: float = 0.0
    closed_s: float = 0.0
    is_closed: bool = False


class Absence:
    def __init__(
        self,
        table: Table[str, tuple[float, float, bool]],
        transactions: Transactions,
        limit_s: float,
    ) -> None:
        self._table = table
        self._transactions = transactions
        self._limit_s = limit_s

    def asked(self, client: str, *, silent_s: float, closed_s: float) -> None:
        """The client is here, and asks for these times; 0 for the usual one."""
        self._note(client, _Asked(silent_s, closed_s))

    def detached(self, client: str) -> None:
        """It closes its connection, and another process comes for its session."""
        asked = self._of(client)
        self._note(client, asked._replace(closed_s=asked.silent_s or self._limit_s))

    def closed(self, client: str) -> None:
        """Its connection was closed while its leader was there."""
        self._note(client, self._of(client)._replace(is_closed=True))

    def was_closed(self, client: str) -> bool:
        return self._of(client).is_closed

    def forget(self, client: str) -> None:
        if client in self._table.rows:
            self._transactions.note(self._table.delete(client))

    def _of(self, client: str) -> _Asked:
        return _Asked(*self._table.rows.get(client, ()))

    def _note(self, client: str, asked: _Asked) -> None:
        if asked != self._of(client):
            row = (asked.silent_s, asked.closed_s, asked.is_closed)
            self._transactions.note(self._table.set(client, row))

    def seconds(self, client: str, *, silent: bool) -> float:
        """How long it is awaited."""
        asked = self._of(client)
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
