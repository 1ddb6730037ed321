"""A witness votes and keeps the log, and has neither ledger nor engine.

Guarantee: of committed records a witness folds the identity of the cell, the peer table, who may
lead and whose tokens hold, so that it knows the others' addresses and who calls; it
offers nobody a snapshot. One that comes to lead, because nobody else stood, brings others up from
its log only, and hands over as soon as one of them is ready, as every leader without an engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ha_scheduler.ledger.encoding import is_of_members
from ha_scheduler.ledger.tables import CELL, MAINTENANCE, PEERS, REVOKED, SIGNING_KEYS, TOKENS
from ha_scheduler.raft.messages import Entry, EntryKind, HardState, Membership
from ha_scheduler.raft.storage import LogReader

TABLES = (PEERS, CELL, MAINTENANCE, SIGNING_KEYS, TOKENS, REVOKED)  # of a snapshot for a witness


def without_ledger(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Committed entries as a witness applies them; its log keeps their data."""
    return tuple(
        replace(entry, data=b"")
        if entry.kind is EntryKind.NORMAL and not is_of_members(entry.data)
        else entry
        for entry in entries
    )


class WitnessLog:
    """A witness's log, as its core reads it."""

    def __init__(self, log: LogReader) -> None:
        self._log = log

    def initial_state(self) -> tuple[HardState, Membership]:
        return self._log.initial_state()

    def first_index(self) -> int:
        return self._log.first_index()

    def last_index(self) -> int:
        return self._log.last_index()

    def term(self, index: int) -> int:
        return self._log.term(index)

    def entries(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]:
        return self._log.entries(lo, hi, max_bytes)

    def snapshot(self) -> None:
        """There is no ledger to take one of."""
        return
