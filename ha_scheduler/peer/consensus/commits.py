"""Who waits for a record that this peer has proposed.

Guarantee: a wait ends well when the record, and not another in its place, has been applied here;
with ``NotCommitted`` when another took its place, or after ``COMMIT_S_MAX``: then it may commit
still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ha_scheduler.raft.messages import Entry

COMMIT_S_MAX = 5.0  # elections are over sooner


class NotCommitted(Exception):
    """Peer: another leader came, or no quorum answered."""


class Commits:
    """The waits of one peer."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[int, asyncio.Future[None]]] = {}  # index → term

    async def applied(self, term: int, index: int) -> None:
        """Wait until the record proposed in ``term`` at ``index`` is applied.

        Raises ``NotCommitted``.
        """
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[index] = term, waiting
        try:
            async with asyncio.timeout(COMMIT_S_MAX):
                await waiting
        except TimeoutError:
            raise NotCommitted("no quorum has answered in time") from None
        finally:
            self._waiting.pop(index, None)

    def on_committed(self, entries: Sequence[Entry]) -> None:
        """These have committed."""
        for entry in entries if self._waiting else ():
            term, waiting = self._waiting.get(entry.index, (entry.term, None))
            if waiting is not None and term != entry.term and not waiting.done():
                waiting.set_exception(NotCommitted("another leader came"))

    def on_applied(self, index: int) -> None:
        """The ledger has everything up to ``index``."""
        for at, (_, waiting) in list(self._waiting.items()):
            if at <= index and not waiting.done():
                waiting.set_result(None)
