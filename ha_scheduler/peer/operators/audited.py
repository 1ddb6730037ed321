"""What is audited of a peer's own state, and of what its engine says.

Whether the peer leads, who belongs to the cell, and whom the engine refused at its ports. The
engine runs users' code: such lines say that they are its word, and it cannot fill the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ha_scheduler.audit.chain import Event
from ha_scheduler.audit.log import AuditLog
from ha_scheduler.protocol.engine import CallerRefused

ENGINE_LINES_MAX = 60  # of what an engine says
ENGINE_LINES_S = 60.0  # in so long

#: Whether the peer leads, its term, and the members with a vote and without.
State = tuple[bool, int, frozenset[str]]


class StateAudit:
    """Looked at once a tick: a change between two looks that was undone is not written."""

    def __init__(self, audit: AuditLog, state: Callable[[], State]) -> None:
        self._audit = audit
        self._state = state
        self._leads, self._members = False, frozenset[str]()

    def look(self) -> None:
        leads, term, members = self._state()
        if leads != self._leads:
            self._leads = leads
            what = "leads" if leads else "leads no longer"
            self._audit.record(Event.ROLE, what=what, term=term)
        if members != self._members:
            before, self._members = self._members, members
            self._audit.record(
                Event.MEMBERSHIP,
                what="members",
                members=", ".join(sorted(members)),
                came=", ".join(sorted(members - before)),
                left=", ".join(sorted(before - members)),
            )


class RefusalAudit:
    """At most ``ENGINE_LINES_MAX`` lines in ``ENGINE_LINES_S``; the next tells of the others."""

    def __init__(self, audit: AuditLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._since, self._lines, self._unsaid = clock(), 0, 0

    def note(self, said: CallerRefused) -> None:
        now = self._clock()
        if now - self._since >= ENGINE_LINES_S:
            self._since, self._lines = now, 0
        if self._lines >= ENGINE_LINES_MAX:
            self._unsaid += said.times
            return
        self._lines += 1
        others, self._unsaid = self._unsaid, 0
        self._audit.record(
            Event.REFUSED,
            what=said.why,
            by="engine",
            subject=said.subject,
            role=said.role,
            alike=said.times,
            others=others,
        )
