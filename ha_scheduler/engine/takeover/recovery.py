"""The recovery barrier: when a new leader may begin to schedule.

Guarantee: between activation and ``opened`` nothing is scheduled, freed, stolen or rebalanced. The
barrier opens when every worker of the ledger has reported or is known to be gone, or when the
window is over. ``on_open`` runs in the same event-loop step, so all reports are adopted before
anybody who waited goes on.

The window measures progress: it begins anew with each awaited worker that comes, so a thousand that
come one after the other are all waited for, and none can extend it twice. It is counted in looks,
between which others have their turn: while this process reads one large report, nobody can come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import NoReturn

from ha_scheduler import failpoints

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 5.0  # after the last that came: one that is alive needs a fraction of a second
LOOKS = 10  # in a time without progress


def end_engine() -> NoReturn:
    """End this process. A name of its own because in most tests the process is pytest."""
    os._exit(1)


class Recovery:
    def __init__(self, on_open: Callable[[], None]) -> None:
        self._on_open = on_open
        self._awaited: set[str] = set()
        self._early: set[str] = set()  # settled before the leader knew whom to expect
        self._opened = asyncio.Event()
        self._window: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    @property
    def awaited(self) -> frozenset[str]:
        """The workers that have neither reported nor gone."""
        return frozenset(self._awaited)

    def begin(self, expected: Iterable[str], window_seconds: float = WINDOW_SECONDS) -> None:
        """Wait for these workers; opens at once if all are settled."""
        self._awaited = set(expected) - self._early
        if self._awaited:
            self._look(window_seconds / LOOKS, LOOKS, len(self._awaited))
        else:
            self._open()
        failpoints.reach("recovery.begun")

    def settled(self, address: str) -> None:
        """The worker has reported, or certainly will not."""
        if not self.is_open:
            self._early.add(address)
        self._awaited.discard(address)
        if not self._awaited and self._window is not None:
            self._open()

    async def opened(self) -> None:
        await self._opened.wait()

    async def stalled(self, seconds: float) -> None:
        """Wait until no awaited worker has come for so long, or the barrier is open."""
        looks = LOOKS
        while looks and not self.is_open:
            awaited = len(self._awaited)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds / LOOKS):
                    await self.opened()
            looks = looks - 1 if len(self._awaited) == awaited else LOOKS

    def _look(self, every: float, looks: int, awaited: int) -> None:
        """Open after so many looks, unless fewer are awaited than at the last."""
        if len(self._awaited) < awaited:
            looks = LOOKS
        if looks:
            loop = asyncio.get_running_loop()
            left = len(self._awaited)
            self._window = loop.call_later(every, self._look, every, looks - 1, left)
        else:
            self._open()

    def _open(self) -> None:
        if self._opened.is_set():
            return
        if self._window is not None:
            self._window.cancel()
        failpoints.reach("recovery.opening")
        try:
            self._on_open()
        except Exception:
            # Half of the reports are adopted: nobody may be served from such a state.
            logger.critical(
                "The recovery failed; this engine exits.",
                exc_info=True,
                extra={"action": "recovery_failed"},
            )
            end_engine()
        self._opened.set()
        failpoints.reach("recovery.opened")
