"""Rejections: records of the log that no peer could apply.

Guarantee: peers that have applied the same log have the same rows: which records, why, and how many
there were. A row tells a record by its index, kind, size and digest, and does not hold it. The
latest ``REJECTED_MAX`` are kept, and all are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

from ha_scheduler.ledger.encoding import decode, encode, kind_of
from ha_scheduler.ledger.layout import index_key
from ha_scheduler.ledger.records import KINDS, RECORD_BYTES_MAX, RecordRejected
from ha_scheduler.ledger.tables import META, REJECTED, Tables
from ha_scheduler.ledger.unfit import Reason
from ha_scheduler.protocol.codec import INT_MAX

REJECTED_MAX = 256  # of some 100 bytes each
_DIGEST_BYTES = 8

_ROW = b"rejected"

_WHY: dict[str, str] = {
    Reason.MALFORMED: "its bytes are no record",
    Reason.TOO_LARGE: f"a record has at most {RECORD_BYTES_MAX} bytes",
    Reason.GRAPH_KNOWN: "there is a graph of that number",
    Reason.PART_MISPLACED: "it is not the next part of its blob",
    Reason.BLOB_INCOMPLETE: "the parts that it names are not there, or belong to another record",
    Reason.DROPPED: "an operator has dropped it, on this peer",
    Reason.PAYLOAD_UNUSABLE: "its payload is not one of a call",
}


def reject(tables: Tables, index: int, term: int, data: bytes, why: Reason) -> RecordRejected:
    """Write down that the entry at ``index`` is not applied."""
    latest = tables.get(META, _ROW)
    count = 1 if latest is None else min(_decode(latest).count + 1, INT_MAX)
    digest = blake2b(data, digest_size=_DIGEST_BYTES).digest()
    row = RecordRejected(count, index, term, kind_of(data), len(data), digest, why)
    put(tables, row)
    return row


def put(tables: Tables, row: RecordRejected) -> None:
    """Write a row in the place of the oldest."""
    tables.put(REJECTED, index_key(row.count % REJECTED_MAX), encode(row))
    tables.put(META, _ROW, encode(row))


def scan(tables: Tables) -> list[RecordRejected]:
    """The rejections that are kept, in the order of the log."""
    rows = [_decode(row) for _, row in tables.scan(REJECTED)]
    return sorted(rows, key=lambda row: row.count)


def _decode(data: bytes) -> RecordRejected:
    row = decode(data)
    assert isinstance(row, RecordRejected)
    return row


def describe(row: RecordRejected) -> str:
    """A sentence's part for a person."""
    kind = KINDS[row.kind].__name__ if row.kind in KINDS else "no known record"
    return (
        f"record {row.index} of term {row.term} ({kind}, {row.size} bytes, digest "
        f"{row.digest.hex()}): {_WHY.get(row.reason, row.reason)}"
    )


class Rejections:
    """The rows in memory, for whoever reads the log beside the ledger."""

    def __init__(self, rows: Iterable[RecordRejected] = ()) -> None:
        self._rows = {row.index: row for row in rows}

    def __contains__(self, index: int) -> bool:
        return index in self._rows

    def add(self, row: RecordRejected) -> None:
        self._rows[row.index] = row
        if len(self._rows) > REJECTED_MAX:
            del self._rows[next(iter(self._rows))]

    @property
    def count(self) -> int:
        """How many there were in the whole log."""
        return self.latest[-1].count if self._rows else 0

    @property
    def latest(self) -> tuple[RecordRejected, ...]:
        """Those that are kept, the newest last."""
        return tuple(self._rows.values())

    def after(self, count: int) -> Iterator[RecordRejected]:
        """Those after the first ``count``."""
        return (row for row in self.latest if row.count > count)

    def knows_all_after(self, index: int) -> bool:
        """Whether every rejection after ``index`` is among those that are kept."""
        oldest = next(iter(self._rows.values()), None)
        return oldest is None or oldest.count == 1 or index >= oldest.index
