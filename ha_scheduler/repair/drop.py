"""Drop one entry of the log that this peer has not applied.

Guarantee: the log stays as it is, for it is the same on all peers; the ledger of this peer passes
over the entry, which stands among its rejections from then on. It is named by index and term, so
another entry that takes its place is applied.

A ledger that lacks what the others have is another ledger. So an entry is to be dropped on every
peer that has yet to apply it, or on none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ha_scheduler.errors import OperatorError
from ha_scheduler.ledger.encoding import is_of_members
from ha_scheduler.raft.messages import Entry, EntryKind
from ha_scheduler.repair.offline import Offline, State
from ha_scheduler.storage.schema import DROPPED, put_fields
from ha_scheduler.storage.words import kind_and_detail

DROPPED_MAX = 64  # entries that wait to be passed over


@dataclass(frozen=True, slots=True)
class Drop:
    """An entry that can be dropped, and what that means."""

    entry: Entry
    loses: str


def look_at(offline: Offline, txn: Any, index: int) -> Drop:
    """The entry to be dropped. Raises ``OperatorError``."""
    state = offline.state(txn)
    _check_index(offline, state, index)
    entry = offline.entry(txn, index)
    kind, detail = kind_and_detail(entry)
    if entry.kind is not EntryKind.NORMAL or not entry.data or is_of_members(entry.data):
        raise OperatorError(
            f"Entry {index} ({kind}) says who belongs to the cell, or nothing at all, and cannot "
            f"be dropped; see `repair show` for the others."
        )
    return Drop(
        entry,
        f"This peer's ledger will lack what entry {index} of term {entry.term} says: {kind}, "
        f"{len(entry.data)} bytes, {detail}. What comes after it may rest on it. Drop it on every "
        f"peer that has not applied it: a ledger that lacks it differs from one that has it.",
    )


def drop(offline: Offline, entry: Entry) -> None:
    """Have the ledger pass over it, once it is its turn."""
    with offline.dbs.env.begin(write=True) as txn:
        state = offline.state(txn)
        waiting = {at: term for at, term in state.dropped.items() if at > state.applied.index}
        waiting[entry.index] = entry.term
        if len(waiting) > DROPPED_MAX:
            raise OperatorError(
                f"{DROPPED_MAX} entries are dropped already and have yet to be passed over; start "
                f"this peer first, or replace it: delete its data, and start it with --replace."
            )
        put_fields(txn, offline.dbs.peer, DROPPED, tuple(sorted(waiting.items())))
        kind, _ = kind_and_detail(entry)
        offline.write_down(txn, f"dropped entry {entry.index} of term {entry.term} ({kind})")


def _check_index(offline: Offline, state: State, index: int) -> None:
    if index in state.dropped:
        raise OperatorError(f"Entry {index} is dropped already; start this peer.")
    if index <= state.applied.index:
        raise OperatorError(
            f"Entry {index} is applied in {offline.path}, and what it did is part of the ledger; "
            f"only entries after {state.applied.index} can be dropped."
        )
    if index > state.last_index:
        raise OperatorError(
            f"{offline.path} has no entry {index}: its log ends at {state.last_index}."
        )
