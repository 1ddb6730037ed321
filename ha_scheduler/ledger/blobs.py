"""Values too large for one record: their parts, and who owns them.

Guarantee: a blob's parts exist from their own records until the owner's row goes. A blob is loose
until a record names it; loose blobs of a former term are dropped when the next one starts, since
nobody is left to name them. Naming a blob costs nothing per part: only the loose mark goes.

Parts come in order and without a gap, and one record names a whole blob, once. So no two rows own
the same parts, and none owns parts that are not there.
"""

from __future__ import annotations

from collections.abc import Iterator

from ha_scheduler.ledger.layout import blob_key, blob_part_key
from ha_scheduler.ledger.records import BLOB_PART_BYTES, BlobPart
from ha_scheduler.ledger.tables import BLOB_PARTS, LOOSE_BLOBS, Tables

_COUNT_BYTES = 4

Blob = tuple[int, int]  # term and number


def is_next(tables: Tables, part: BlobPart) -> bool:
    """Whether this is the first part of a blob that is not there, or the next of a loose one."""
    blob = part.term, part.blob
    if (count := loose_parts(tables, blob)) is not None:
        return part.number == count
    return part.number == 0 and not tables.has_any(BLOB_PARTS, blob_key(*blob))


def loose_parts(tables: Tables, blob: Blob) -> int | None:
    """How many parts a loose blob has; None if there is none such."""
    row = tables.get(LOOSE_BLOBS, blob_key(*blob))
    if row == b"":  # of a ledger of format 1
        return sum(1 for _ in tables.keys(BLOB_PARTS, blob_key(*blob)))
    return None if row is None else int.from_bytes(row, "big")


def add_part(tables: Tables, part: BlobPart) -> None:
    """Keep a part of a loose blob, which ``is_next``."""
    tables.put(BLOB_PARTS, blob_part_key(part.term, part.blob, part.number), part.data)
    count = (part.number + 1).to_bytes(_COUNT_BYTES, "big")
    tables.put(LOOSE_BLOBS, blob_key(part.term, part.blob), count)


def put(tables: Tables, term: int, blob: int, payload: bytes) -> int:
    """Keep a payload in parts that a row owns at once; returns how many."""
    starts = range(0, len(payload), BLOB_PART_BYTES)
    for number, start in enumerate(starts):
        data = payload[start : start + BLOB_PART_BYTES]
        tables.put(BLOB_PARTS, blob_part_key(term, blob, number), data)
    return len(starts)


def claim(tables: Tables, blob: Blob) -> None:
    """The record being applied owns the blob now."""
    tables.delete(LOOSE_BLOBS, blob_key(*blob))


def discard(tables: Tables, blob: Blob) -> None:
    tables.delete_prefix(BLOB_PARTS, blob_key(*blob))


def drop_loose_before(tables: Tables, term: int) -> None:
    """``term`` has begun: drop the loose blobs of earlier ones."""
    limit = blob_key(term, 0)
    for key in tables.keys(LOOSE_BLOBS):
        if key >= limit:
            break
        tables.delete_prefix(BLOB_PARTS, key)
        tables.delete(LOOSE_BLOBS, key)


def parts(tables: Tables, blob: Blob) -> Iterator[BlobPart]:
    """The parts of a blob in order, read one at a time."""
    prefix = blob_key(*blob)
    for key in tables.keys(BLOB_PARTS, prefix):
        data = tables.get(BLOB_PARTS, key)
        if data is not None:
            yield BlobPart(*blob, int.from_bytes(key[len(prefix) :], "big"), data)


def loose(tables: Tables) -> Iterator[Blob]:
    for key in tables.keys(LOOSE_BLOBS):
        yield int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
