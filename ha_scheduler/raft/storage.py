"""Stable storage as the core sees it, and an in-memory twin of it for tests.

The guarantee the core relies on: a `LogReader` answers from what is durable. Whatever `Ready`
asked to persist is invisible here until it is durable, all of one `Ready` at once (hard state and
entries are one transaction), and in the order of the `Ready` numbers. An answer never changes
for an index that the core was told is persisted, except by a later `Ready`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .errors import CompactedError, UnavailableError
from .messages import Entry, HardState, Membership, SnapshotMeta, entry_size


class LogReader(Protocol):
    """What the core reads. Any other exception than the two named ones is fatal to the peer."""

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
        """Entries of [lo, hi), cut so that they fit in ``max_bytes``, but at least one."""

    def snapshot(self) -> SnapshotMeta | None:
        """The newest snapshot that could be sent now: the applied state.

        None: this peer has none to give, now or ever (a witness keeps no ledger). The follower
        that needs one waits, and is offered it as soon as there is one.
        """


def limit_size(entries: Sequence[Entry], max_bytes: int) -> Sequence[Entry]:
    """The longest prefix within ``max_bytes``, but at least one entry."""
    total = 0
    for position, entry in enumerate(entries):
        total += entry_size(entry)
        if total > max_bytes and position > 0:
            return entries[:position]
    return entries


class MemoryLog:
    """A `LogReader` in memory. Each method that writes stands for one durable transaction."""

    def __init__(self, membership: Membership, *, index: int = 0, term: int = 0) -> None:
        """Starts with everything up to ``index`` compacted away."""
        self._hard_state = HardState(term, 0, index)
        self._compacted_index = index
        self._compacted_term = term
        self._entries: list[Entry] = []
        self._applied = SnapshotMeta(index, term, membership)

    def initial_state(self) -> tuple[HardState, Membership]:
        return self._hard_state, self._applied.membership

    def first_index(self) -> int:
        return self._compacted_index + 1

    def last_index(self) -> int:
        return self._compacted_index + len(self._entries)

    def term(self, index: int) -> int:
        if index == self._compacted_index:
            return self._compacted_term
        if index < self._compacted_index:
            raise CompactedError(f"entry {index} is compacted, first is {self.first_index()}")
        if index > self.last_index():
            raise UnavailableError(f"entry {index} is beyond the last, {self.last_index()}")
        return self._entries[index - self._compacted_index - 1].term

    def entries(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]:
        if lo <= self._compacted_index:
            raise CompactedError(f"entry {lo} is compacted, first is {self.first_index()}")
        if hi > self.last_index() + 1:
            raise UnavailableError(f"entry {hi - 1} is beyond the last, {self.last_index()}")
        start = self._compacted_index + 1
        return limit_size(self._entries[lo - start : hi - start], max_bytes)

    def snapshot(self) -> SnapshotMeta:
        return self._applied

    @property
    def applied(self) -> int:
        return self._applied.index

    def set_hard_state(self, hard_state: HardState) -> None:
        self._hard_state = hard_state

    def append(self, entries: Sequence[Entry]) -> None:
        """Replaces everything from the first entry's index on."""
        if not entries:
            return
        keep = entries[0].index - self._compacted_index - 1
        if not 0 <= keep <= len(self._entries):
            raise UnavailableError(
                f"append at {entries[0].index} leaves a gap after {self.last_index()} "
                f"or reaches below {self.first_index()}"
            )
        self._entries[keep:] = entries

    def truncate(self, first_removed: int) -> None:
        """Loses a tail that was never synced; for crash tests."""
        del self._entries[max(0, first_removed - self._compacted_index - 1) :]

    def record_applied(self, index: int, membership: Membership) -> None:
        """The state machine now stands at ``index``, and its snapshot with it."""
        self._applied = SnapshotMeta(index, self.term(index), membership)

    def compact(self, index: int) -> None:
        """Drops entries up to ``index``, which must have been applied."""
        if index <= self._compacted_index:
            return
        term = self.term(index)
        del self._entries[: index - self._compacted_index]
        self._compacted_index, self._compacted_term = index, term

    def install_snapshot(self, meta: SnapshotMeta) -> None:
        """The state machine and the log are replaced by a snapshot."""
        self._compacted_index, self._compacted_term = meta.index, meta.term
        self._entries = []
        self._applied = meta
