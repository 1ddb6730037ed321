"""A whole ledger as a stream of chunks, for a peer that is too far behind for the log.

Guarantee: ``load`` leaves the tables row for row as ``dump`` saw them, or raises
``SnapshotDamagedError``. Each chunk has its number and a crc32c, the last one the number of rows
and a digest of all before it: a chunk that is damaged, lost, repeated or reordered is noticed.

Order: ``load`` clears the tables first. So it runs on unused tables, or in the transaction that
moves the applied index and is aborted by its error.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Protocol

import msgpack
from crc32c import crc32c

from ha_scheduler.ledger import indexes
from ha_scheduler.ledger.layout import pack, unpack
from ha_scheduler.ledger.tables import DUMPED_TABLES, TABLES, Tables

CHUNK_BYTES_MAX = 1024 * 1024  # bytes, header included: what a peer link takes as one message
_ROWS_BYTES = 256 * 1024  # bytes of rows after which a chunk is closed; one row may overshoot it

_HEADER = struct.Struct(">IIB")  # crc32c of what follows it, number from 0, kind
_ROWS = 0
END = 1


class SnapshotDamagedError(Exception):
    """Peer or network: a ledger's stream is not what was sent; ask for it again."""


def dump(tables: Tables, only: Sequence[str] = DUMPED_TABLES) -> Iterator[bytes]:
    """The chunks of the tables ``only``. ``tables`` must not change: hold a read view."""
    total = blake2b(digest_size=16)
    number = rows = 0
    for count, body in _bodies(tables, only):
        total.update(body)
        rows += count
        yield _chunk(number, _ROWS, body)
        number += 1
    yield _chunk(number, END, pack((rows, total.digest())))


class Rows(indexes.Rows, Protocol):
    """The part of ``Tables`` that ``load`` needs."""

    def delete_prefix(self, table: str, prefix: bytes) -> int: ...


def load(chunks: Iterable[bytes], tables: Rows) -> int:
    """Replace every row of ``tables``; returns how many. Raises ``SnapshotDamagedError``."""
    for table in TABLES:
        tables.delete_prefix(table, b"")
    total = blake2b(digest_size=16)
    rows = 0
    ended = False
    for number, chunk in enumerate(chunks):
        if ended:
            raise SnapshotDamagedError(
                "the ledger's stream goes on after its end; ask for it again"
            )
        kind, body = check_chunk(chunk, number)
        if kind == END:
            _check_end(body, rows, total.digest())
            ended = True
        else:
            total.update(body)
            rows += _load_rows(body, tables)
    if not ended:
        raise SnapshotDamagedError("the ledger's stream ends early; ask for it again")
    return rows


def check_chunk(chunk: bytes, number: int) -> tuple[int, bytes]:
    """Kind and body of chunk ``number``. Raises ``SnapshotDamagedError``.

    Cheap enough for each chunk as it arrives, before any is installed.
    """
    if len(chunk) < _HEADER.size:
        raise SnapshotDamagedError(f"chunk {number} of the ledger is cut short; ask for it again")
    crc, found, kind = _HEADER.unpack_from(chunk)
    if crc32c(chunk[4:]) != crc:
        raise SnapshotDamagedError(f"chunk {number} of the ledger is damaged; ask for it again")
    if found != number:
        raise SnapshotDamagedError(
            f"chunk {found} of the ledger came where {number} was due; ask for it again"
        )
    return kind, chunk[_HEADER.size :]


def _chunk(number: int, kind: int, body: bytes) -> bytes:
    rest = _HEADER.pack(0, number, kind)[4:] + body
    crc: int = crc32c(rest)
    chunk = crc.to_bytes(4, "big") + rest
    assert len(chunk) <= CHUNK_BYTES_MAX, len(chunk)
    return chunk


def _bodies(tables: Tables, only: Sequence[str]) -> Iterator[tuple[int, bytes]]:
    """Row counts and packed rows, in bodies of about ``_ROWS_BYTES``."""
    body = bytearray()
    count = 0
    for table in only:
        for key, value in tables.scan(table):
            row = pack((table, key, value))
            if body and len(body) + len(row) > _ROWS_BYTES:
                yield count, bytes(body)
                body.clear()
                count = 0
            body += row
            count += 1
    if body:
        yield count, bytes(body)


def _load_rows(body: bytes, tables: Rows) -> int:
    unpacker = msgpack.Unpacker(raw=False, use_list=False, max_buffer_size=CHUNK_BYTES_MAX)
    unpacker.feed(body)
    count = 0
    for table, key, value in unpacker:
        if table not in TABLES:
            raise SnapshotDamagedError(
                f"the ledger has a table {table!r} of a newer release; upgrade this peer"
            )
        indexes.put(tables, table, key, value)
        count += 1
    return count


def _check_end(body: bytes, rows: int, total: bytes) -> None:
    sent_rows, sent_total = unpack(body)
    if (sent_rows, sent_total) != (rows, total):
        raise SnapshotDamagedError(
            f"the ledger's stream had {rows} rows where {sent_rows} were sent; ask for it again"
        )
