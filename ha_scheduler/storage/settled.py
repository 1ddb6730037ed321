"""The reader's half of the port, from the settled batches.

Guarantee: answers follow from the state at the start and the batches settled since: never from
queued batches, nor from durable ones that have not settled.

Order: a store calls ``admit`` when a batch is submitted, and its caller ``settle`` when it is
durable, both in the order of submission and on the loop's thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from ha_scheduler.ledger.records import RecordRejected
from ha_scheduler.ledger.rejections import Rejections
from ha_scheduler.raft.messages import Entry, HardState, Membership, SnapshotMeta
from ha_scheduler.storage.log_view import LogView
from ha_scheduler.storage.port import BatchGuard, WriteBatch


class SettledReader:
    """``LogReader`` and ``applied``, for a store to inherit. ``begin`` comes first."""

    def begin(self, view: LogView, first_index: int, rejected: Iterable[RecordRejected]) -> None:
        """``view``: the durable log at the start of this process; ``rejected``: of the ledger."""
        self._view = view
        self._dropped: Mapping[int, int] = {}
        self._rejections = Rejections(rejected)
        self._found: deque[tuple[int, Rejections | RecordRejected]] = deque()
        self._pending: deque[WriteBatch] = deque()
        self._guard = BatchGuard(view.last_index(), view.applied(), first_index - 1)

    def initial_state(self) -> tuple[HardState, Membership]:
        return self._view.initial_state()

    def first_index(self) -> int:
        return self._view.first_index()

    def last_index(self) -> int:
        return self._view.last_index()

    def term(self, index: int) -> int:
        return self._view.term(index)

    def entries(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]:
        return self._view.entries(lo, hi, max_bytes)

    def snapshot(self) -> SnapshotMeta:
        return self._view.snapshot()

    def applied(self) -> int:
        return self._view.applied()

    def rejections(self) -> Rejections:
        return self._rejections

    def is_dropped(self, entry: Entry) -> bool:
        return self._dropped.get(entry.index) == entry.term

    def found(self, number: int, *rejected: Rejections | RecordRejected) -> None:
        """For the writer, on its thread, before batch ``number`` is durable: what its entries
        brought, or all that the ledger of its snapshot has.
        """
        self._found.extend((number, each) for each in rejected)

    def admit(self, batch: WriteBatch) -> None:
        """Take in a batch before it is queued. Asserts that it continues those before it."""
        self._guard.check(batch)
        self._pending.append(batch)

    def settle(self, number: int) -> None:
        while self._pending and self._pending[0].number <= number:
            self._view.settle(self._pending.popleft())
        while self._found and self._found[0][0] <= number:
            _, found = self._found.popleft()
            if isinstance(found, Rejections):
                self._rejections = found
            else:
                self._rejections.add(found)
