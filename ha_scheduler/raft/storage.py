"""Stable storage as the core sees it.

The guarantee the core relies on: a `LogReader` answers from what is durable. What a `Ready` asked
to persist appears when it is durable, all of it at once and in the order of the `Ready` numbers. An
answer for a persisted index changes only by a later `Ready`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .messages import Entry, HardState, Membership, SnapshotMeta, entry_size


class LogReader(Protocol):
    """The durable log. Any exception but the two named ones is fatal to the peer."""

    def initial_state(self) -> tuple[HardState, Membership]:
        """Hard state, and the membership in force at the applied index."""

    def first_index(self) -> int:
        """Index of the oldest entry kept; one past the compaction point if there is none."""

    def last_index(self) -> int:
        """Index of the newest entry; ``first_index() - 1`` if there is none."""

    def term(self, index: int) -> int:
        """Term of an entry, or of the compaction point ``first_index() - 1``.

        Raises `CompactedError` below that and `UnavailableError` above `last_index`.
        """

    def entries(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]:
        """Entries of [lo, hi) within ``max_bytes``, but at least one."""

    def snapshot(self) -> SnapshotMeta | None:
        """The newest snapshot that could be sent now: the applied state.

        None: this peer has none to give (a witness keeps no ledger). The follower that needs one
        waits.
        """


def limit_size(entries: Sequence[Entry], max_bytes: int) -> Sequence[Entry]:
    """The longest prefix within ``max_bytes``, but at least one entry."""
    total = 0
    for position, entry in enumerate(entries):
        total += entry_size(entry)
        if total > max_bytes and position > 0:
            return entries[:position]
    return entries
