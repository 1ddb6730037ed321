"""Changes of an engine's tables: one record a step, and no answer before its commit.

Guarantee: all arguments of ``write``, the answer of its call included, take effect in the ledger
together or not at all. The caller changes its own state in the same event-loop step, so the log has
the order of the changes. ``settled`` returns when everything written so far has committed: an
answer to whoever has seen a change, even by reading, waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from distributed.protocol.pickle import dumps

from ha_scheduler import failpoints
from ha_scheduler.engine.stream.recorder import Recorder
from ha_scheduler.engine.stream.state import StreamScheduler
from ha_scheduler.engine.stream.tables import Change
from ha_scheduler.ledger.calls import pack_payload
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.records import Called, Record, ValueDeleted, ValueSet


@dataclass(slots=True)
class Call:
    """A call in progress; ``session`` is empty if it has no number."""

    op: str
    session: str = ""
    slot: int = 0
    sequence: int = 0
    written: bool = False


#: The call that the running task handles, on behalf of which ``write`` writes.
current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)


def take_call() -> Call:
    """The call in progress, for a handler that answers by ``Transactions.answer`` alone.

    Other writes of the handler, even by the user's code, are then not the call's.
    """
    call = current_call.get() or Call("")
    current_call.set(None)
    return call


class Transactions:
    def __init__(self, scheduler: StreamScheduler) -> None:
        self._scheduler = scheduler
        self._proposed = 0
        self._committed = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def note(self, *changes: Change, first: Record | None = None) -> None:
        """Record a step that belongs to no call. ``first``: a record that precedes it."""
        self._write(Call(""), changes, None, first)

    def write(self, *changes: Change, answer: Any = None) -> None:
        """Record a step as the answer to the call in progress."""
        self._write(current_call.get() or Call(""), changes, answer)

    def answer(self, call: Call, *changes: Change, answer: Any) -> None:
        """Record the answer to a waiting call, which may be one of an earlier leader."""
        self._write(call, changes, answer)

    def _write(
        self, call: Call, changes: tuple[Change, ...], answer: Any, first: Record | None = None
    ) -> None:
        recorder: Recorder | None = self._scheduler.recorder
        if recorder is None:
            return  # a follower applies records and writes none
        # Two records of one call might be parted by a failover, and the second would be lost.
        assert not (call.session and call.written), call
        call.written = True
        records: list[Record] = [_record(recorder, change) for change in changes]
        if first is not None:
            records.insert(0, first)
        if call.session or len(records) > 1:
            self._append_called(recorder, call, records, answer)
        elif records:
            recorder.append(records[0], self.mark())
        failpoints.reach(f"{(current_call.get() or call).op}.appended")

    def _append_called(
        self, recorder: Recorder, call: Call, records: list[Record], answer: Any
    ) -> None:
        data = bytes(dumps(answer)) if call.session else b""
        payload = pack_payload(tuple(map(encode, records)), data)
        inlined = recorder.inline(payload)
        record = Called(call.session, call.slot, call.sequence, *inlined, recorder.term)
        calls = self._scheduler.sessions.calls
        calls.called(record, data)
        recorder.append(record, self.mark())
        for dropped in calls.excess():
            calls.apply(dropped)
            recorder.append(dropped, self.mark())

    def mark(self) -> Callable[[], None]:
        """A callback for a record's commit that ``settled`` then waits for."""
        self._proposed += 1
        number = self._proposed

        def committed() -> None:
            self._committed = number
            while self._waiting and self._waiting[0][0] <= number:
                waiter = self._waiting.popleft()[1]
                if not waiter.done():
                    waiter.set_result(None)

        return committed

    async def settled(self) -> None:
        """Wait until everything that was written so far has committed."""
        if self._committed < self._proposed:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append((self._proposed, waiter))
            await waiter


def _record(recorder: Recorder, change: Change) -> ValueSet | ValueDeleted:
    if change.data is None:
        return ValueDeleted(change.space, change.name)
    return ValueSet(change.space, change.name, *recorder.inline(change.data), recorder.term)
