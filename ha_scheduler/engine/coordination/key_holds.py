"""Why the pseudo-clients of coordination objects want keys.

Guarantee: a key that a row of the ledger names (an item of a queue, the value of a variable) is
wanted by the object's pseudo-client, and so is one that was handed to a caller, until the caller
has confirmed that it wants the key itself. No future gets lost between the two, and none is held
for ever because a confirmation was: a hold ends after ``HOLD_SECONDS``.

Order: the desire enters the log before the row that names the key, and the release after the row
is gone. What a leader leaves of that at its death is a key that is wanted and named by no row; the
next one takes it for one that was handed out, and holds it as long.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.keys import Key

#: A caller that lives confirms at once, and within seconds of a failover. One that stays away for
#: ``clients.CLIENT_GRACE_SECONDS`` has given up its futures anyway.
HOLD_SECONDS = 120.0


class KeyHolds:
    """The keys that the objects of one kind want: ``kind`` begins their pseudo-clients' names."""

    def __init__(self, scheduler: SchedulerBase, kind: str) -> None:
        self._scheduler = scheduler
        self._prefix = f"{kind}-"
        self._named: Counter[tuple[str, Key]] = Counter()
        self._handed: dict[tuple[str, Key], deque[asyncio.TimerHandle]] = {}
        self._inherited: dict[tuple[str, Key], asyncio.TimerHandle] = {}

    def name(self, name: Any, key: Key) -> None:
        """A row is about to name the key."""
        client = self._client(name)
        self._named[client, key] += 1
        if self._scheduler.recorder is not None:
            self._scheduler.client_desires_keys(keys=[key], client=client)

    def unname(self, name: Any, key: Key) -> None:
        """The row is gone, or names another key."""
        at = (self._client(name), key)
        self._named[at] -= 1
        if self._named[at] <= 0:
            del self._named[at]
        self._release_unneeded(at)

    def hand_out(self, name: Any, key: Key) -> None:
        """A caller is about to be told of the key, which a row still names."""
        at = (self._client(name), key)
        self._handed.setdefault(at, deque()).append(self._later(self._took_back, at))

    def confirm(self, name: Any, key: Key) -> None:
        """A caller wants the key itself now. Of one that is not known it does not matter."""
        at = (self._client(name), key)
        if at in self._handed:
            self._handed[at][0].cancel()
            self._took_back(at)

    def wants_nothing(self, name: Any) -> bool:
        """Whether the object's pseudo-client is of no use any more."""
        cs = self._scheduler.clients.get(self._client(name))
        return cs is not None and not cs.wants_what

    def restore(self) -> None:
        """This engine leads: what is wanted and not named was handed out by an earlier leader."""
        for client, cs in list(self._scheduler.clients.items()):
            if client.startswith(self._prefix):
                for ts in cs.wants_what:
                    at = (client, ts.key)
                    if at not in self._named:
                        self._inherited[at] = self._later(self._disinherit, at)

    def _client(self, name: Any) -> str:
        return f"{self._prefix}{name}"

    @staticmethod
    def _later(end: Callable[[tuple[str, Key]], None], at: tuple[str, Key]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(HOLD_SECONDS, end, at)

    def _took_back(self, at: tuple[str, Key]) -> None:
        handed = self._handed[at]
        handed.popleft()
        if not handed:
            del self._handed[at]
        self._release_unneeded(at)

    def _disinherit(self, at: tuple[str, Key]) -> None:
        del self._inherited[at]
        self._release_unneeded(at)

    def _release_unneeded(self, at: tuple[str, Key]) -> None:
        scheduler = self._scheduler
        if scheduler.recorder is None or at in self._named:
            return
        if at not in self._handed and at not in self._inherited and at[0] in scheduler.clients:
            scheduler.client_releases_keys(keys=[at[1]], client=at[0])
