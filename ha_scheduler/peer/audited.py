"""What of a peer's own state is audited: whether it leads, and who belongs to the cell."""

from __future__ import annotations

from collections.abc import Callable

from ha_scheduler.audit.chain import Event
from ha_scheduler.audit.log import AuditLog

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
