"""How the coordination objects change: one record a step, and no answer before it has committed.

Guarantee: what ``write`` is given takes effect in the ledger altogether or not at all, the answer
of the call that asked for it included. The caller changes its own state in the same event-loop
step, so the order of the log is the order in which the objects changed. ``settled`` returns when
all that was written so far has committed: whoever has seen a change, be it by reading, answers
after that.
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
from ha_scheduler.engine.stream.graphs import INLINE_BYTES_MAX
from ha_scheduler.engine.stream.keys import encode_key
from ha_scheduler.engine.stream.recorder import Recorder
from ha_scheduler.engine.stream.tables import value_set
from ha_scheduler.ledger.calls import pack_payload
from ha_scheduler.ledger.records import Called, Record, ValueDeleted, encode

DELETED: Any = object()  # the value of a row that goes

#: The space, the name and the new value of a row
Change = tuple[str, Any, Any]


@dataclass(slots=True)
class Call:
    """A call that is being handled; ``session`` is empty for one that is not numbered."""

    op: str
    session: str = ""
    slot: int = 0
    sequence: int = 0
    written: bool = False


#: The call that the running task handles, on behalf of which ``write`` writes.
current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)


def take_call() -> Call:
    """The call being handled, for a handler that answers it by ``Transactions.answer`` alone.

    What else the handler brings about, be it by code of the user's, is not written in its name.
    """
    call = current_call.get() or Call("")
    current_call.set(None)
    return call


class Transactions:
    """The pen of the coordination objects."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._proposed = 0
        self._committed = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def note(self, *changes: Change, first: Record | None = None) -> None:
        """Record a step that is no call's own: what time or another call's effect brought about.

        ``first``: a record that takes effect together with the changes, and before them.
        """
        self._write(Call(""), changes, None, first)

    def write(self, *changes: Change, answer: Any = None) -> None:
        """Record a step, and that it answers the call that is being handled."""
        self._write(current_call.get() or Call(""), changes, answer)

    def answer(self, call: Call, *changes: Change, answer: Any) -> None:
        """Record the answer to a call that waits, here or on its way from an earlier leader."""
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
        encoded = tuple(_encode(recorder, *change) for change in changes)
        if first is not None:
            encoded = (encode(first), *encoded)
        data = bytes(dumps(answer)) if call.session else b""
        payload = pack_payload(encoded, data)
        blob = parts = 0
        if len(payload) > INLINE_BYTES_MAX:
            blob, parts = recorder.append_blob(payload)
            payload = b""
        record = Called(call.session, call.slot, call.sequence, payload, blob, parts, recorder.term)
        calls = self._scheduler.sessions.calls
        calls.called(record, data)
        recorder.append(record, self.mark())
        for dropped in calls.excess():
            calls.apply(dropped)
            recorder.append(dropped, self.mark())
        failpoints.reach(f"{(current_call.get() or call).op}.appended")

    def mark(self) -> Callable[[], None]:
        """What a record's commit calls, so that ``settled`` waits for it too."""
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


def _encode(recorder: Recorder, space: str, name: Any, value: Any) -> bytes:
    if value is DELETED:
        return encode(ValueDeleted(space, encode_key(name)))
    return encode(value_set(recorder, space, name, bytes(dumps(value))))
