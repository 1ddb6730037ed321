"""The active engine's proposals: in order, bounded, and recognised when they commit.

Guarantee: records enter the log in the order of their proposal numbers, without a gap, and only
those that an engine may write (``ledger/authorship.py``). A record
that the core does not take now (a transfer is in progress, too much is uncommitted) stays at the
head and holds back the rest.

Backpressure: above ``OUTSTANDING_BYTES_MAX`` the engine's channel is paused, so a burst waits in
the engine.

There are no error replies: an engine that loses leadership is killed, and the log tells what became
of its proposals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from ha_scheduler.ledger.admission import check
from ha_scheduler.ledger.authorship import NotItsRecordError, check_engine
from ha_scheduler.ledger.records import RECORD_BYTES_MAX
from ha_scheduler.ledger.unfit import RejectedRecord, UnknownRecordError
from ha_scheduler.raft.errors import NotLeaderError, ProposalDroppedError
from ha_scheduler.raft.messages import Entry

OUTSTANDING_BYTES_MAX = 32 * 1024 * 1024  # queued or proposed, and not yet reported
BATCH_BYTES = 512 * 1024  # proposed at once: one message to each follower
BATCH_RECORDS = 256  # … and no more records, so that other work gets its turn
OVERHEAD_BYTES = 64  # of one record, so that a million tiny ones are bounded too


class ProposalError(Exception):
    """Local: a proposal that no engine of this release makes."""


class Proposals:
    """The proposals of one activation of one engine."""

    def __init__(
        self,
        propose: Callable[[Sequence[bytes]], range],
        term: int,
        call_soon: Callable[[Callable[[], None]], object],
    ) -> None:
        """``propose`` appends all or nothing; ``call_soon`` runs a function after other work."""
        self._propose = propose
        self.term = term
        self._call_soon = call_soon
        self._scheduled = False
        self._next = 1
        self._queue: deque[tuple[int, bytes]] = deque()
        self._numbers: dict[int, tuple[int, int]] = {}  # index → (number, bytes)
        self.outstanding_bytes = 0
        self.closed = False

    @property
    def congested(self) -> bool:
        """Whether the engine's channel should be paused."""
        return self.outstanding_bytes > OUTSTANDING_BYTES_MAX

    @property
    def relieved(self) -> bool:
        """Whether reading may go on; below ``congested``, so that it does not flutter."""
        return self.outstanding_bytes < OUTSTANDING_BYTES_MAX // 2

    def offer(self, number: int, data: bytes) -> None:
        """The engine's next record. Raises ``ProposalError``."""
        if number != self._next:
            raise ProposalError(f"it sent proposal {number} where {self._next} was due")
        if not 0 < len(data) <= RECORD_BYTES_MAX:
            raise ProposalError(f"it proposed a record of {len(data)} bytes")
        try:
            check_engine(*check(data), self.term)
        except NotItsRecordError as error:
            raise ProposalError(f"it proposed what no engine may: {error}") from error
        except (UnknownRecordError, RejectedRecord) as error:
            raise ProposalError(f"it proposed what no peer can apply: {error}") from error
        self._next += 1
        self.outstanding_bytes += len(data) + OVERHEAD_BYTES
        self._queue.append((number, data))
        self.pump()

    def pump(self) -> None:
        """Give the core what it takes; also called when it may take more."""
        if self._queue and not self._scheduled and not self.closed:
            self._scheduled = True
            self._call_soon(self._give)

    def report(self, entry: Entry) -> int:
        """The proposal number of a committed entry, or 0. Once each."""
        if entry.term != self.term:
            return 0
        number, size = self._numbers.pop(entry.index, (0, 0))
        self.outstanding_bytes -= size
        return number

    def close(self) -> None:
        self.closed = True
        self._queue.clear()

    def _give(self) -> None:
        self._scheduled = False
        batch = self._batch()
        if not batch or self.closed:
            return
        try:
            indices = self._propose([data for _, data in batch])
        except ProposalDroppedError:
            return  # they stay at the head; a commit or a tick tries again
        except NotLeaderError:
            self.close()
            return
        for index, (number, data) in zip(indices, batch, strict=True):
            self._queue.popleft()
            self._numbers[index] = (number, len(data) + OVERHEAD_BYTES)
        self.pump()

    def _batch(self) -> list[tuple[int, bytes]]:
        batch: list[tuple[int, bytes]] = []
        size = 0
        for item in islice(self._queue, BATCH_RECORDS):
            size += len(item[1])
            if batch and size > BATCH_BYTES:
                break
            batch.append(item)
        return batch
