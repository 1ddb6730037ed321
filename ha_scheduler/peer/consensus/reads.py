"""Linearizable reads of what a daemon tells: a quorum says first that it is not out of date.

Guarantee: after ``current`` this peer has applied every entry that had committed when it was asked,
by whichever leader (``raft/reads.py``). So any peer answers, a follower as well; it asks the
leader, and nothing is written to the log. A question may be lost with a leader: it is asked again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from ha_scheduler.raft.errors import CallerError

PATIENCE_S = 3.0  # an election, with room
ASK_EVERY_S = 0.3
CONTEXT_BYTES = 24  # other than that of an engine's question

Ask = Callable[[bytes], None]
Applied = Callable[[], int]


class NotConfirmed(Exception):
    """Peer: no quorum said in time that this peer is not out of date."""


class Reads:
    def __init__(self) -> None:
        self._waiting: dict[bytes, asyncio.Future[int]] = {}
        self._applied = asyncio.Event()

    async def current(self, ask: Ask, applied: Applied) -> None:
        """Wait until what this peer knows is current. Raises ``NotConfirmed``.

        ``ask`` sends a question to the leader, or raises ``CallerError``.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                index = await self._confirmed(ask)
                while applied() < index:
                    self._applied.clear()
                    await self._applied.wait()
        except TimeoutError:
            raise NotConfirmed(
                f"no quorum has confirmed within {PATIENCE_S:g} s that this is current; ask for "
                f"what this peer knows, without consistency=linearizable"
            ) from None

    async def _confirmed(self, ask: Ask) -> int:
        asked: list[bytes] = []
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        try:
            while True:
                asked.append(os.urandom(CONTEXT_BYTES))
                self._waiting[asked[-1]] = answer
                try:
                    ask(asked[-1])
                    async with asyncio.timeout(ASK_EVERY_S):
                        return await asyncio.shield(answer)
                except CallerError:
                    await asyncio.sleep(ASK_EVERY_S)
                except TimeoutError:
                    pass
        finally:
            for context in asked:
                self._waiting.pop(context, None)

    def confirmed(self, context: bytes, index: int) -> None:
        """The answer to a question of ours; unknown ones are late."""
        waiting = self._waiting.get(context)
        if waiting is not None and not waiting.done():
            waiting.set_result(index)

    def on_applied(self) -> None:
        self._applied.set()
