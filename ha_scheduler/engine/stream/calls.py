"""Calls of coordination objects: answered after the commit, idempotent by number.

Guarantee: no answer leaves before everything that it tells of has committed. A repeated numbered
call, here or at a later leader, gets the kept answer, joins the call in progress, or is handled for
the first time (``ledger/calls.py``). Its caller retries on the next leader, so a wait goes on
there. A caller whose session has ended gets ``EXPIRED`` and nothing is done again; one whose answer
was dropped gets ``LOST``.

Order: the record that opens a session commits before the caller sends its first call. So a call of
an unknown session is known to be a late one, and is not done a second time.

A wait ends before it takes anything if nobody waits for the answer: its caller is gone, uses the
slot for its next call, or has not returned from an earlier leader (``on_end``, ``on_next``).

Wire: ``OpenCalls``, then a ``CallId`` beside each call's own arguments (``protocol/client.py``).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distributed.core import Status
from distributed.protocol.pickle import loads

from ha_scheduler import failpoints
from ha_scheduler.comm.calling import CALLER
from ha_scheduler.engine.stream.state import StreamScheduler
from ha_scheduler.engine.stream.transactions import Call, Transactions, current_call
from ha_scheduler.ledger.calls import DROPPED
from ha_scheduler.ledger.records import CallsEnded, CallsOpened
from ha_scheduler.protocol.client import EXPIRED, LOST, CallId, OpenCalls
from ha_scheduler.protocol.codec import from_op, tag_of

logger = logging.getLogger(__name__)

_OPEN = tag_of(OpenCalls)

#: A session of which nothing is heard for so long, and whose owner was not seen here meanwhile, is
#: over, with what it holds. No worker looks for a leader for longer, and no caller repeats a call
#: for longer (``ha.worker.rejoin-timeout`` and ``ha.client.reconnect-timeout``,
#: 1 h by default).
SESSION_IDLE_SECONDS = 2 * 3600.0
SWEEP_SECONDS = 600.0

Handler = Callable[..., Any]


@dataclass(slots=True)
class _Running:
    sequence: int
    task: asyncio.Task[Any]


class NumberedCalls:
    def __init__(self, scheduler: StreamScheduler, transactions: Transactions) -> None:
        self._scheduler = scheduler
        self._transactions = transactions
        self._running: dict[tuple[str, int], _Running] = {}
        self._heard: dict[str, float] = {}
        #: How an answer that was kept becomes a reply, where the two differ.
        self.present: dict[str, Callable[[Any], Any]] = {}
        #: Called when sessions are over: what is kept for those that are may go.
        self.on_end: list[Callable[[], None]] = []
        #: Called when a slot begins its next call: earlier ones wait no longer.
        self.on_next: list[Callable[[Call], None]] = []

    def around(self, op: str, handler: Handler) -> Handler:
        """The handler as it is called over the wire."""

        @functools.wraps(handler)
        async def handle(*args: Any, ha_call: Any = None, **kwargs: Any) -> Any:
            bound = functools.partial(handler, *args, **kwargs)
            if ha_call is None:
                return await self._perform(Call(op), bound)
            number = from_op(CallId, ha_call)
            return await self._once(Call(op, number.session, number.slot, number.sequence), bound)

        return handle

    async def open(self, session: str, owner: str) -> str:
        """Open a session; returns when that has committed. Raises ``MalformedMessage``."""
        from_op(OpenCalls, {"session": session, "owner": owner})
        failpoints.reach(f"{_OPEN}.arrived")
        self._heard[session] = asyncio.get_running_loop().time()
        if session not in self._scheduler.sessions.calls:
            record = CallsOpened(session, owner, CALLER.get().subject)
            self._scheduler.sessions.apply(record)
            self._scheduler.record(record, self._transactions.mark())
        failpoints.reach(f"{_OPEN}.appended")
        await self._transactions.settled()
        failpoints.reach(f"{_OPEN}.committed")
        return "OK"

    async def _once(self, call: Call, handler: Handler) -> Any:
        calls = self._scheduler.sessions.calls
        if call.session not in calls:
            return EXPIRED
        if calls.subject(call.session) not in ("", CALLER.get().subject):
            raise PermissionError(f"{call.op}: this session of calls is another subject's")
        self._heard[call.session] = asyncio.get_running_loop().time()
        kept = calls.answer(call.session, call.slot)
        if kept is not None and kept.sequence >= call.sequence:
            if kept.sequence > call.sequence:
                return await self._refuse(call)
            await self._transactions.settled()
            return self._reply(call.op, kept.data)
        return await self._join_or_start(call, handler)

    async def _join_or_start(self, call: Call, handler: Handler) -> Any:
        at = (call.session, call.slot)
        running = self._running.get(at)
        if running is not None and running.sequence > call.sequence:
            return await self._refuse(call)
        if running is not None and running.sequence < call.sequence:
            running.task.cancel()
            running = None
        if running is None:
            for forget in self.on_next:
                forget(call)
            task = asyncio.create_task(self._perform(call, handler))
            self._running[at] = running = _Running(call.sequence, task)
            task.add_done_callback(lambda _: self._ended(at, task))
        # Shielded: the end of one connection must not end the call of another that joined it.
        return await asyncio.shield(running.task)

    def _ended(self, at: tuple[str, int], task: asyncio.Task[Any]) -> None:
        running = self._running.get(at)
        if running is not None and running.task is task:
            del self._running[at]
        if not task.cancelled():
            task.exception()  # whoever waits for it has it; perhaps nobody does

    async def _perform(self, call: Call, handler: Handler) -> Any:
        current_call.set(call)
        failpoints.reach(f"{call.op}.arrived")
        try:
            result = handler()
            if inspect.isawaitable(result):
                result = await result
        except Exception:
            await self._transactions.settled()  # an error tells of what was written, too
            raise
        await self._transactions.settled()
        failpoints.reach(f"{call.op}.committed")
        return result

    def _reply(self, op: str, data: bytes) -> Any:
        if data == DROPPED:
            return LOST
        answer = loads(data)
        return self.present[op](answer) if op in self.present else answer

    @staticmethod
    async def _refuse(call: Call) -> Any:
        """A later call of its slot has overtaken it: nobody waits for an answer."""
        logger.info("A late %s is not done again.", call.op, extra={"action": "late_call"})
        return Status.dont_reply

    def abandon(self, owner: str) -> None:
        """The caller is gone: its waits end and take nothing."""
        self._cancel(self._scheduler.sessions.calls.owned_by(owner))

    def ended(self) -> None:
        for forget in self.on_end:
            forget()

    def _cancel(self, sessions: list[str]) -> None:
        for at, running in list(self._running.items()):
            if at[0] in sessions:
                running.task.cancel()

    def restore(self) -> None:
        """This engine leads: begin to expire idle sessions."""
        now = asyncio.get_running_loop().time()
        self._heard = dict.fromkeys(self._scheduler.sessions.calls, now)
        self._sweep_later()

    def _sweep_later(self) -> None:
        asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        scheduler, now = self._scheduler, asyncio.get_running_loop().time()
        owned = {*scheduler.session_of.values(), *(w.server_id for w in scheduler.workers.values())}
        for session in scheduler.sessions.calls:
            if scheduler.sessions.calls.owner(session) in owned:
                self._heard[session] = now  # one that is away for a moment is not one that is gone
            elif now - self._heard.get(session, now) > SESSION_IDLE_SECONDS:
                self._end(session)
        self.ended()
        live = scheduler.sessions.calls  # others ended with their clients
        self._heard = {session: at for session, at in self._heard.items() if session in live}
        self._sweep_later()

    def _end(self, session: str) -> None:
        record = CallsEnded(session)
        self._cancel([session])
        self._heard.pop(session, None)
        self._scheduler.sessions.apply(record)
        self._scheduler.record(record)
