"""Desires of coordination objects: why their pseudo-clients want keys.

Guarantee: a key in a row (an item of a queue, the value of a variable) is wanted by the object's
pseudo-client. So is one that was handed to a caller, until the caller confirms its own desire or
``HOLD_SECONDS`` are over: no future is lost in between, and none held for ever.

Order: the desire enters the log before the row, the release after its deletion. A leader that dies
in between leaves a wanted key without a row; the next one holds it as if it was handed out.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.keys import Key

#: A caller that lives confirms at once, and within seconds of a failover. One whose
#: connection was closed for as long has given up its futures anyway (``clients/absence.py``).
HOLD_SECONDS = 120.0


class KeyHolds:
    """The keys that objects of one ``kind`` want, by pseudo-clients of that prefix."""

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
        """A caller is about to be told of a key that a row still names."""
        at = (self._client(name), key)
        self._handed.setdefault(at, deque()).append(self._later(self._took_back, at))

    def confirm(self, name: Any, key: Key) -> None:
        """A caller wants the key itself now; unknown keys are ignored."""
        at = (self._client(name), key)
        if at in self._handed:
            self._handed[at][0].cancel()
            self._took_back(at)

    def wants_nothing(self, name: Any) -> bool:
        """Whether the object's pseudo-client can go."""
        cs = self._scheduler.clients.get(self._client(name))
        return cs is not None and not cs.wants_what

    def restore(self) -> None:
        """This engine leads: wanted keys without a row were handed out by an earlier leader."""
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
