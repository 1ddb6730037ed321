"""Confirmations of leadership by a quorum, for answers that commit nothing.

Guarantee: what is read before ``confirm`` is called, and told when that is over, was true in
between: no other peer had been elected when a quorum was asked, which is after it was read. So
reads are linearizable whatever the clocks do; the lease rests on them (``shared_lease.py``).

One question is under way at a time. Who asks meanwhile shares the next: an earlier one may have
been answered by the quorum before they read.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

OnConfirmed = Callable[[], None]
Handler = Callable[..., Any]

#: Requests that read what others change, and commit nothing that would prove leadership.
READS = frozenset(
    {
        *("queue_qsize", "variable_get", "semaphore_value", "event_is_set", "event_wait"),
        *("publish_get", "publish_list", "get_metadata", "events", "ha-lock-forgotten"),
    }
)


class Rounds:
    """The questions of one engine. ``ask`` sends one, by its number."""

    def __init__(self, ask: Callable[[int], None]) -> None:
        self._ask = ask
        self._number = 0
        self._asked: list[OnConfirmed] = []
        self._next: list[OnConfirmed] = []

    def confirm(self, on_confirmed: OnConfirmed) -> None:
        self._next.append(on_confirmed)
        if not self._asked:
            self._begin()

    def confirmed(self, number: int) -> None:
        """The answer to a question. One to an earlier one is ignored."""
        if number != self._number:
            return
        asked, self._asked = self._asked, []
        for on_confirmed in asked:
            on_confirmed()
        if self._next and not self._asked:
            self._begin()

    def _begin(self) -> None:
        self._asked, self._next = self._next, []
        self._number += 1
        self._ask(self._number)


def confirmed(handler: Handler, confirm: Callable[[], Awaitable[None]]) -> Handler:
    """``handler``, whose answer waits for a confirmation that is begun after it."""

    @functools.wraps(handler)  # upstream looks at the signature (core.py, _expects_comm)
    async def handle_then_confirm(*args: Any, **kwargs: Any) -> Any:
        try:
            result = handler(*args, **kwargs)
            if inspect.isawaitable(result):
                result = await result
        except Exception:  # that something is not there is an answer, too
            await confirm()
            raise
        await confirm()
        return result

    return handle_then_confirm


async def wait(ask: Callable[[OnConfirmed], None]) -> None:
    """Ask, and wait for the answer."""
    answered = asyncio.get_running_loop().create_future()

    def on_confirmed() -> None:
        if not answered.done():
            answered.set_result(None)

    ask(on_confirmed)
    await answered
