"""A ``LogReader`` in memory, for tests of the core: what is written is durable at once."""

from __future__ import annotations

from collections.abc import Sequence

from ha_scheduler.raft.errors import CompactedError, UnavailableError
from ha_scheduler.raft.messages import Entry, HardState, Membership, SnapshotMeta
from ha_scheduler.raft.storage import limit_size


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
