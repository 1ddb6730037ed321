"""Numbers of calls, by which a cell recognises a repeated one.

Guarantee: no two calls have the same (session, slot, sequence), and a slot carries one call at a
time. A call that was answered or given up frees its slot; the slot's next call confirms the last
answer. So a cell keeps as many answers as this process has had calls at once.

Runs on the event loop of the calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ha_scheduler.protocol.client import CallId
from ha_scheduler.protocol.codec import to_op

SLOTS_MAX = 10_000  # calls of one process under way at once; each costs the cell a row


@dataclass(slots=True)
class PendingCall:
    id: CallId
    sent: int = 0

    def to_send(self) -> dict[str, Any]:
        """Its number for the wire; counts as sent."""
        self.sent += 1
        return to_op(self.id)


class CallIds:
    def __init__(self, session: str) -> None:
        self.session = session
        self._sequences: list[int] = []
        self._free: list[int] = []

    @contextmanager
    def take(self) -> Iterator[PendingCall]:
        """A number for one call. Raises ``RuntimeError`` when too many are in progress."""
        slot = self._free.pop() if self._free else self._new_slot()
        self._sequences[slot] += 1
        try:
            yield PendingCall(CallId(self.session, slot, self._sequences[slot]))
        finally:
            self._free.append(slot)

    def _new_slot(self) -> int:
        if len(self._sequences) >= SLOTS_MAX:
            raise RuntimeError(
                f"{SLOTS_MAX} calls to the scheduler wait for an answer, and there may be no more. "
                "Wait for some of them."
            )
        self._sequences.append(0)
        return len(self._sequences) - 1
