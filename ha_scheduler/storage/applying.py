"""Committed entries into the ledger.

Guarantee: in log order, normal entries are folded, and membership changes go into the meta of a
later snapshot. What cannot be applied is passed over (``ledger.fold``), and so is what an operator
has dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.records import RecordRejected
from ha_scheduler.ledger.rejections import reject
from ha_scheduler.ledger.tables import Tables
from ha_scheduler.ledger.unfit import Reason
from ha_scheduler.raft.membership import decode_membership
from ha_scheduler.raft.messages import Entry, EntryKind, SnapshotMeta
from ha_scheduler.storage.port import WriteBatch


def fold_entries(
    tables: Tables, entries: Sequence[Entry], dropped: Mapping[int, int] | None = None
) -> list[RecordRejected]:
    """Fold the normal entries, but those whose index and term are ``dropped``.

    Returns those that were rejected.
    """
    found: list[RecordRejected] = []
    for entry in entries:
        if entry.kind is not EntryKind.NORMAL:
            continue
        if dropped and dropped.get(entry.index) == entry.term:
            rejected: RecordRejected | None = reject(
                tables, entry.index, entry.term, entry.data, Reason.DROPPED
            )
        else:
            rejected = fold(tables, entry.index, entry.term, entry.data)
        if rejected is not None:
            found.append(rejected)
    return found


def applied_after(batch: WriteBatch, before: SnapshotMeta) -> SnapshotMeta:
    """The applied state after ``batch``: its last entry, and the membership then in force."""
    last = batch.apply[-1]
    membership = before.membership
    for entry in batch.apply:
        if entry.kind is EntryKind.CONF_CHANGE:
            membership, _ = decode_membership(entry.data)
    return SnapshotMeta(last.index, last.term, membership)
