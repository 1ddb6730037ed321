"""The rows of a journal's file.

Guarantee: a row that was altered, cut short or moved to another key is known (``Damaged``): each
has a CRC-32C of its key and value. What was pickled when it was submitted is kept as it was, and
nothing is unpickled here.

``meta``: identity, owner, last number. ``entries``: number → op, fields, sizes of frames; small
frames behind them. ``parts``: number and part → a piece of the frames. ``dropped``: number and hash
of a key that is not wanted any more. ``held``: hash of a key → the key.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import msgpack
from crc32c import crc32c
from distributed.protocol.serialize import (
    Pickled,
    Serialized,
    msgpack_decode_default,
    msgpack_encode_default,
)

from client_replay.journal.keeper import JournalEntry, Key, Message

FORMAT = 1
PART_BYTES = 1024 * 1024
INLINE_BYTES = 64 * 1024  # of frames that stand in the row itself
OPEN, COMMITTED = 0, 1

_CRC = struct.Struct(">I")
_SEQUENCE = struct.Struct(">Q")
_PART = struct.Struct(">QI")
_HASH_BYTES = 16
_FRAMED: dict[str, type[Any]] = {"s": Serialized, "p": Pickled}


class Damaged(ValueError):
    """A row that is not as it was written."""


def sealed(key: bytes, value: bytes) -> bytes:
    """The value with its checksum."""
    return _CRC.pack(crc32c(value, crc32c(key))) + value


def unsealed(key: bytes, row: bytes) -> bytes:
    """The value. Raises ``Damaged``."""
    value = bytes(row[_CRC.size :])
    if len(row) < _CRC.size or _CRC.unpack_from(row)[0] != crc32c(value, crc32c(key)):
        raise Damaged(f"the row {key.hex()} is not as it was written")
    return value


def pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value, use_bin_type=True, default=msgpack_encode_default))


def unpack(data: bytes) -> Any:
    """Raises ``Damaged``."""
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=False,
            strict_map_key=False,
            object_hook=msgpack_decode_default,
        )
    except Exception as error:
        raise Damaged(f"{type(error).__name__}: {error}") from error


def sequence_key(sequence: int) -> bytes:
    return _SEQUENCE.pack(sequence)


def sequence_of(key: bytes) -> int:
    """Of a row's key that begins with it. Raises ``Damaged``."""
    if len(key) < _SEQUENCE.size:
        raise Damaged(f"the key {key.hex()} is none")
    return int(_SEQUENCE.unpack_from(key)[0])


def part_key(sequence: int, part: int) -> bytes:
    return _PART.pack(sequence, part)


def key_hash(key: Key) -> bytes:
    return blake2b(pack(key), digest_size=_HASH_BYTES).digest()


def dropped_key(sequence: int, key: Key) -> bytes:
    return _SEQUENCE.pack(sequence) + key_hash(key)


# ---- entries


def encode(entry: JournalEntry) -> tuple[bytes, list[memoryview]]:
    """The row of an open entry, and the parts of its frames that are rows of their own."""
    fields, frames = {}, []
    for name, value in entry.message.items():
        fields[name] = value
        for mark, kind in _FRAMED.items():
            if isinstance(value, kind):
                theirs = [memoryview(frame).cast("B") for frame in value.frames]
                fields[name] = {"": mark, "header": value.header, "sizes": [*map(len, theirs)]}
                frames += theirs
    total = sum(map(len, frames))
    inline = b"".join(frames) if total <= INLINE_BYTES else b""
    row = pack((OPEN, fields, entry.nbytes, total, inline))
    return row, [] if total <= INLINE_BYTES else list(_pieces(frames))


def _pieces(frames: Iterable[memoryview]) -> Iterator[memoryview]:
    for frame in frames:
        for start in range(0, len(frame), PART_BYTES):
            yield frame[start : start + PART_BYTES]


def is_open(row: Any) -> bool:
    return bool(row[0] == OPEN)


def body_bytes(row: Any) -> int:
    """Of frames that are not in the row."""
    return 0 if row[4] else int(row[3])


def decode(sequence: int, row: Any, parts: Iterable[bytes] = ()) -> JournalEntry:
    """An open entry, of its row and parts. Raises ``Damaged``."""
    try:
        _, fields, nbytes, total, inline = row
        body = memoryview(inline or b"".join(parts))
        if len(body) != total:
            raise Damaged(f"request {sequence} has {len(body)} of {total} bytes")
        message: Message = {}
        at = 0
        for name, value in fields.items():
            if isinstance(value, dict) and "" in value:
                frames = []
                for size in value["sizes"]:
                    frames.append(bytes(body[at : at + size]))
                    at += size
                value = _FRAMED[value[""]](value["header"], frames)
            message[name] = value
        return JournalEntry(sequence, message, int(nbytes))
    except Damaged:
        raise
    except Exception as error:
        raise Damaged(f"request {sequence}: {type(error).__name__}: {error}") from error


def committed(keys: Iterable[Key]) -> bytes:
    """The row of a graph that has committed."""
    return pack((COMMITTED, list(keys)))


def keys_of(row: Any) -> list[Key]:
    """The keys of a graph, open or committed. Raises ``Damaged``."""
    try:
        return list(row[1]["keys"] if is_open(row) else row[1])
    except (LookupError, TypeError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from error
