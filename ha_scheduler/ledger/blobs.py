"""Values too large for one record: their parts, and who owns them.

Guarantee: a blob's parts exist from their own records until the owner's row goes. A blob is loose
until a record names it; loose blobs of a former term are dropped when the next one starts, since
nobody is left to name them. Naming a blob costs nothing per part: only the loose mark goes.
"""

from __future__ import annotations

from collections.abc import Iterator

from ha_scheduler.ledger.layout import blob_key, blob_part_key
from ha_scheduler.ledger.records import BLOB_PART_BYTES, BlobPart
from ha_scheduler.ledger.tables import BLOB_PARTS, LOOSE_BLOBS, Tables


def add_part(tables: Tables, part: BlobPart) -> None:
    """Keep a part of a loose blob."""
    tables.put(BLOB_PARTS, blob_part_key(part.term, part.blob, part.number), part.data)
    tables.put(LOOSE_BLOBS, blob_key(part.term, part.blob), b"")


def put(tables: Tables, term: int, blob: int, payload: bytes) -> int:
    """Keep a payload in parts that a row owns at once; returns how many."""
    starts = range(0, len(payload), BLOB_PART_BYTES)
    for number, start in enumerate(starts):
        data = payload[start : start + BLOB_PART_BYTES]
        tables.put(BLOB_PARTS, blob_part_key(term, blob, number), data)
    return len(starts)


def claim(tables: Tables, term: int, blob: int) -> None:
    """The record being applied owns the blob now."""
    tables.delete(LOOSE_BLOBS, blob_key(term, blob))


def discard(tables: Tables, term: int, blob: int) -> None:
    tables.delete_prefix(BLOB_PARTS, blob_key(term, blob))


def drop_loose_before(tables: Tables, term: int) -> None:
    """``term`` has begun: drop the loose blobs of earlier ones."""
    limit = blob_key(term, 0)
    for key in tables.keys(LOOSE_BLOBS):
        if key >= limit:
            break
        tables.delete_prefix(BLOB_PARTS, key)
        tables.delete(LOOSE_BLOBS, key)


def parts(tables: Tables, term: int, blob: int) -> Iterator[BlobPart]:
    """The parts of a blob in order, read one at a time."""
    prefix = blob_key(term, blob)
    for key in tables.keys(BLOB_PARTS, prefix):
        data = tables.get(BLOB_PARTS, key)
        if data is not None:
            yield BlobPart(term, blob, int.from_bytes(key[len(prefix) :], "big"), data)


def loose(tables: Tables) -> Iterator[tuple[int, int]]:
    for key in tables.keys(LOOSE_BLOBS):
        yield int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
