"""How a client finds a leader, listens to it, and finds the next one.

Guarantee: the loss of a stream changes no future. A client looks for a leader for
``ha.client.reconnect-timeout``; what it hears first on each stream, and says, is the
session's (``session/session.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from typing import Any

import distributed
from distributed.client import CommClosedError
from distributed.core import Status, clean_exception

from client_replay.calls.rpc import RECONNECT_TIMEOUT, reconnect_timeout_s
from client_replay.errors import JournalFenced, NoLeader
from client_replay.session.outages import REMIND_S
from client_replay.session.session import Session
from ha_scheduler.backoff import Backoff
from ha_scheduler.comm.backend import why
from ha_scheduler.comm.decoding import UNREADABLE
from ha_scheduler.comm.preamble import IntroductionRefused, is_final
from ha_scheduler.errors import SessionTaken

logger = logging.getLogger("distributed.client.ha")

ATTEMPT_S_MAX = 30.0  # a leader that takes in a large graph answers late
FIRST_REMINDER_S = 3.0  # most leaders are replaced by then
FIRST_BACKOFF_S_MAX = 0.25  # somebody waits for the client to be there


class Connecting(distributed.Client):
    scheduler_comm: Any
    _stream_handlers: dict[str, Any]
    _ha: Session
    _leaves: bool
    _retrying: list[set[Any]]  # of each call of ``retry``: the keys of which the stream has told

    async def _fenced(self, error: JournalFenced | SessionTaken) -> None:
        raise NotImplementedError

    def _setup_replay(self) -> None:
        """Rebind what upstream's ``__init__`` bound to its own methods; idempotent."""
        raise NotImplementedError

    async def _ensure_connected(self, timeout: float | None = None) -> None:
        if self.scheduler is not None:
            self._setup_replay()
        before = self.scheduler_comm
        if self._ha.connected_before:
            await super()._ensure_connected(timeout=timeout)
        else:
            await self._connect_first(timeout)
        # Upstream's last step has no await after it: nothing was sent on the new stream yet, and
        # what it flushes goes through the loop, behind us (client.py:1598).
        if self.scheduler_comm is not None and self.scheduler_comm is not before:
            self._ha.hello(self.scheduler_comm)

    async def _connect_first(self, timeout: float | None) -> None:
        """Upstream's connection, retried if the leader is lost meanwhile."""
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        backoff = Backoff(max_s=FIRST_BACKOFF_S_MAX)
        while True:
            try:
                left = max(0.0, deadline - time.monotonic())
                await super()._ensure_connected(timeout=left)
                return
            except CommClosedError as error:
                late = time.monotonic() > deadline
                if late or is_final(error) or self.status != "connecting":
                    raise
            await backoff.pause(self._ha.follower.news)

    async def _reconnect(self) -> None:
        if self._ha.served_plainly:
            await super()._reconnect()
            return
        self.status, self.scheduler_comm = "connecting", None
        self._ha.begin_outage()
        reminding = asyncio.ensure_future(self._remind())
        try:
            await self._ha.pause_between_streams()
            await self._find_leader(time.monotonic() + reconnect_timeout_s())
        finally:
            reminding.cancel()

    async def _find_leader(self, deadline: float) -> None:
        backoff = Backoff()
        while self.status == "connecting" and not await self._reconnect_once(deadline):
            if time.monotonic() > deadline:
                await self._give_up()
                return
            await backoff.pause(self._ha.follower.news)

    async def _remind(self) -> None:
        """Say why it lasts: soon after it began, and every ``REMIND_S``."""
        await asyncio.sleep(FIRST_REMINDER_S)
        while True:
            await self._ha.look_around()
            self._ha.remind()
            await asyncio.sleep(REMIND_S)

    async def _give_up(self) -> None:
        """No leader within the time: what is pending fails for that reason."""
        with contextlib.suppress(Exception):  # whatever hinders it, the reason is the outage
            await self._ha.look_around()
        error = NoLeader(
            f"{self._ha.why_no_leader()} The client gave up after {reconnect_timeout_s():g} s "
            f"({RECONNECT_TIMEOUT}). {self._what_is_left()}"
        )
        logger.error("%s", error, extra={"action": "gave_up"})
        self._ha.outages.gave_up()
        for state in list(self.futures.values()):
            if state.status == "pending":
                state.set_error(error, None)
            elif state.status == "finished":  # and its result is out of reach
                state.cancel(reason="no-leader", msg=str(error))
        self.futures.clear()
        self._leaves = True
        await self._close()

    def _what_is_left(self) -> str:
        path = self._ha.journal.path
        if path is None:
            return "What was submitted is lost with this client, unless a new one submits it again."
        return f"Go on by client_replay.resume({str(path)!r}) when the cell is back."

    async def _reconnect_once(self, deadline: float) -> bool:
        timeout = min(ATTEMPT_S_MAX, max(0.1, deadline - time.monotonic()))
        try:
            await self._ha.follower.attempt(self._ensure_connected(timeout=timeout))
        except (ImportError, IntroductionRefused):  # versions that do not fit (client.py:1593)
            logger.exception(
                "The scheduler does not fit this client, closing client",
                extra={"action": "scheduler_unfit"},
            )
            await self._close()
        except (OSError, TimeoutError) as error:
            logger.debug("No leader yet: %s", why(error))
        except Exception:  # who waits for the client waits until the deadline
            logger.exception(
                "Could not reconnect because of a defect", extra={"action": "reconnect_defect"}
            )
        return bool(self.status != "connecting")

    # ---- the stream

    async def _handle_report(self) -> None:
        """client.py:1731. A "close" from a leader that goes is no reason to stop listening."""
        with contextlib.suppress(asyncio.CancelledError):
            while self.scheduler_comm is not None:
                stream = self.scheduler_comm
                try:
                    messages = await stream.comm.read()
                    goodbye = await self._handle_messages(stream, messages)
                except CommClosedError:
                    goodbye = False
                if (goodbye or stream.comm.closed()) and not await self._stream_ended(goodbye):
                    return

    async def _stream_ended(self, goodbye: bool) -> bool:
        """The stream is over; whether to go on listening."""
        if self._is_finalizing() or self.status != "running":
            return False
        if self.cluster and self.cluster.status in (Status.closed, Status.closing):
            await self._close()
            return False
        if goodbye and self._ha.served_plainly:
            return False
        logger.info("Client report stream closed to scheduler")
        self.scheduler_comm.abort()
        self._ha.lost()
        try:
            self._ha.journal.require_owner()
        except JournalFenced as error:
            await self._fenced(error)
            return False
        for told in self._retrying:
            told.clear()  # the call is made again, and its answer is that of the next leader
        await self._reconnect()
        return True

    async def _handle_messages(self, stream: Any, messages: Any) -> bool:
        """Handle one batch; whether the scheduler said goodbye."""
        for message in messages if isinstance(messages, (list, tuple)) else (messages,):
            if stream.comm.closed():  # fenced by a message before, or by the watch
                return False
            if "status" in message and "error" in message["status"]:
                _, exception, _ = clean_exception(**message)
                if isinstance(exception, SessionTaken):
                    await self._fenced(exception)
                    return False
                logger.error(
                    "The scheduler refuses what was said, closing client: %s",
                    exception,
                    extra={"action": "scheduler_refuses"},
                )
                await self._close()
                return False
            if UNREADABLE in message:
                logger.error(
                    "Could not read what the scheduler says: %r",
                    message[UNREADABLE],
                    extra={"action": "message_unreadable"},
                )
                continue
            op = message.pop("op")
            if op in ("close", "stream-closed"):
                return True
            try:
                result = self._stream_handlers[op](**message)
                if inspect.isawaitable(result):
                    await result
            except Exception:  # as upstream's (client.py:1731)
                logger.exception(
                    "Could not handle %r from the scheduler",
                    op,
                    extra={"action": "message_not_handled"},
                )
        return False
