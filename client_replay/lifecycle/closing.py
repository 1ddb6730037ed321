"""How a client closes: what outlives it is committed first, and contexts may be nested.

Guarantee: what outlives the client is committed before it closes, if a leader is there within
``GOODBYE_S_MAX``, or while the client still reconnects.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import reprlib
import time
from typing import Any, Self, cast

import distributed
from dask.typing import no_default
from distributed.client import _current_client
from distributed.utils import NoOpAwaitable, sync
from tornado.ioloop import IOLoop

from client_replay.session.session import Session
from ha_scheduler import forks

logger = logging.getLogger("distributed.client.ha")

RETURN_S_MAX, RETURN_POLL_S = 1.0, 0.02  # a leader is most often there by then
GOODBYE_S_MAX = 2.0  # for what was said just before the client closed, and outlives it


class Closing(distributed.Client):
    _ha: Session
    _owner: forks.Owner
    _calling: set[asyncio.Future[None]]
    _leaves: bool
    _entered: list[Any]  # contexts around the present one, with what upstream restores at its end

    def close(self, timeout: Any = no_default) -> Any:
        """client.py:1927, which sets the status to "closing" first: then nothing is replayed."""
        if not self._owner.is_here():
            return NoOpAwaitable() if self._asynchronous else None
        if self.status not in ("running", "connecting"):
            return super().close(timeout)
        limit = min(GOODBYE_S_MAX, timeout) if timeout and timeout is not no_default else None
        if self.asynchronous:
            return self._settle_and_close(timeout, limit)
        sync(cast("IOLoop", self.loop), self._settle, limit)
        return super().close(timeout)

    async def _settle_and_close(self, timeout: Any, limit: float | None) -> None:
        await self._settle(limit)
        await super().close(timeout)

    def __enter__(self) -> Self:
        self._entered.append(self._previous_as_current)
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if not self._ends_inner_context():
            if self._breaks_off(exception):
                sync(cast("IOLoop", self.loop), self._leave)
            super().__exit__(*exception)

    async def __aenter__(self) -> Self:
        self._entered.append(self._previous_as_current)
        await super().__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        if self._owner.is_here() and not self._ends_inner_context():
            if self._breaks_off(exception):
                await self._leave()
            else:
                await self._settle()
            await super().__aexit__(*exception)

    async def _leave(self) -> None:
        raise NotImplementedError

    def _breaks_off(self, exception: tuple[Any, ...]) -> bool:
        """Whether an error ends the context while a journal on disk has work: it can be resumed."""
        journal = self._ha.journal
        if exception[0] is None or self.status == "closed" or not journal.wanted():
            return False
        logger.warning(
            "The client ends by an error with unfinished work; go on with it by "
            "client_replay.resume(%r).",
            str(journal.path),
            extra={"action": "journal_left"},
        )
        return True

    def _ends_inner_context(self) -> bool:
        """Whether the client goes on after this context.

        ``get_client`` of a cluster gives whoever asks the same client, so contexts are nested.
        Upstream's would close it at the end of the inner one, and restore the same client twice.
        """
        outer = self._entered.pop() if self._entered else None
        if not self._entered:
            return False
        token, self._previous_as_current = self._previous_as_current, outer
        if token is not None:
            with contextlib.suppress(ValueError):  # it was entered in another context of Python
                _current_client.reset(token)
        return True

    async def _settle(self, limit: float | None = None) -> None:
        """Wait up to ``GOODBYE_S_MAX`` for the commit of what outlives this client."""
        await asyncio.sleep(0)  # a call that another thread, or our caller, has just asked for
        limit = GOODBYE_S_MAX if limit is None else limit
        try:
            async with asyncio.timeout(limit):
                if self._calling:
                    await asyncio.wait(self._calling)
                await self._ha.settled()
        except TimeoutError:
            self._warn_of_unsettled(limit)
        await self._come_back(min(limit, RETURN_S_MAX))

    async def _come_back(self, limit: float) -> None:
        """To say goodbye: else the cell keeps what this client wants for its time to live."""
        deadline = time.monotonic() + limit
        while self._is_missed() and time.monotonic() < deadline:  # noqa: ASYNC110 - upstream's status
            await asyncio.sleep(RETURN_POLL_S)

    def _is_missed(self) -> bool:
        return self.status == "connecting" and bool(self.futures)

    def _warn_of_unsettled(self, limit: float) -> None:
        unsettled = [entry.message for entry in self._ha.journal.lasting()]
        if not unsettled and not self._calling:
            return
        logger.warning(
            "The client closes although no leader said within %.1f s that the cell has what "
            "outlives it: %d cancellations and fire-and-forget requests (of %s), %d calls. Look "
            "whether they were done, and close a client when the cell answers.",
            limit,
            len(unsettled),
            reprlib.repr([key for message in unsettled for key in message.get("keys", ())]),
            len(self._calling),
            extra={"action": "closed_unsettled"},
        )

    async def _close(self, fast: bool = False) -> None:
        if self.status != "closed":
            self.status = "closing"
            await self._ha.follower.stop()
        await super()._close(fast=fast)
        journal = self._ha.journal
        unheard = not self._ha.connected_before and (len(journal) or journal.wanted())
        if self._leaves or unheard or journal.lasting():  # a request that outlives this client
            journal.leave()
        else:
            self._ha.journal.close()
