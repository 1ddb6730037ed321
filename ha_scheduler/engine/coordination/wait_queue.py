"""Calls that wait for a change: first come, first served.

Guarantee: an attempt takes effect in the event-loop step that made it possible, so nothing comes
between. A call that gives up (its time is over, its caller is gone) has had no effect, or all of
it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, TypeVar

from distributed.utils import Deadline

T = TypeVar("T")


class WaitQueue:
    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[Any], tuple[Context, Callable[[], Any]]] = {}
        self._serving = False
        self._again = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def turn(self, attempt: Callable[[], T | None], deadline: Deadline) -> T:
        """The first result of ``attempt`` that is not None. Raises ``TimeoutError``.

        It is tried at once, unless others wait, and after each ``serve``; never after the wait has
        ended. It runs in the context of this call.
        """
        turn: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = (copy_context(), attempt)
        self.serve()
        try:
            if not turn.done():
                # Not ``wait_for``, whose timeout may fall on a turn that has just come.
                await asyncio.wait([turn], timeout=deadline.remaining)
            if not turn.done():
                raise TimeoutError
            return turn.result()
        finally:
            if self._waiting.pop(turn, None) is not None:
                self.serve()  # it may have been the first, and in the way

    def serve(self) -> None:
        """Something changed: serve, in order, those whose attempts succeed now."""
        self._again = True
        if self._serving:
            return
        self._serving = True
        try:
            while self._again:
                self._again = False
                self._serve_first()
        finally:
            self._serving = False

    def _serve_first(self) -> None:
        while self._waiting:
            turn, (context, attempt) = next(iter(self._waiting.items()))
            try:
                result = context.run(attempt)
            except Exception as error:  # it is the answer to who waits
                turn.set_exception(error)
            else:
                if result is None:
                    return
                turn.set_result(result)
            del self._waiting[turn]
