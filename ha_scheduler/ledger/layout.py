"""The keys of rows.

Guarantee: equal things have equal keys, different things different ones, and numbers sort as
numbers (big-endian). Names are hashed to 128 bits, far below LMDB's limit of 511 bytes; the row's
value holds the name itself.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Any

import msgpack

NAME_BYTES = 16  # bytes of a hashed name: 2^64 names before a collision is to be expected

_U64 = struct.Struct(">Q")
_U64_U64 = struct.Struct(">QQ")
_U64_U64_U32 = struct.Struct(">QQI")
_U64_U32 = struct.Struct(">QI")


def name_key(name: bytes | str) -> bytes:
    """A name of any length as 16 bytes."""
    raw = name.encode() if isinstance(name, str) else name
    return blake2b(raw, digest_size=NAME_BYTES).digest()


def graph_key(graph: int) -> bytes:
    return _U64.pack(graph)


def graph_of(key: bytes) -> int:
    (graph,) = _U64.unpack_from(key)
    return int(graph)


def graph_name_key(graph: int, name: bytes | str) -> bytes:
    return _U64.pack(graph) + name_key(name)


def graph_index_key(graph: int, index: int) -> bytes:
    return _U64_U64.pack(graph, index)


def blob_key(term: int, blob: int) -> bytes:
    return _U64_U64.pack(term, blob)


def blob_part_key(term: int, blob: int, number: int) -> bytes:
    return _U64_U64_U32.pack(term, blob, number)


def delta_prefix(graph: int, client_key: bytes) -> bytes:
    return _U64.pack(graph) + client_key


def delta_key(graph: int, client_key: bytes, index: int) -> bytes:
    return delta_prefix(graph, client_key) + _U64.pack(index)


def client_of_delta(key: bytes) -> bytes:
    return key[_U64.size : _U64.size + NAME_BYTES]


def index_key(index: int) -> bytes:
    return _U64.pack(index)


def index_at_end(key: bytes) -> int:
    (index,) = _U64.unpack(key[-_U64.size :])
    return int(index)


def event_key(index: int, part: int = 0) -> bytes:
    return _U64_U32.pack(index, part)


def event_place(key: bytes) -> tuple[int, int]:
    """Index and part of an event's key, or of a key that ends with one."""
    index, part = _U64_U32.unpack(key[-_U64_U32.size :])
    return index, part


def wants_key(client_key: bytes, graph: int) -> bytes:
    return client_key + _U64.pack(graph)


def peer_key(peer: int) -> bytes:
    return _U64.pack(peer)


def value_key(space: str, name: bytes) -> bytes:
    return name_key(space) + name_key(name)


def call_key(session: str, slot: int) -> bytes:
    return name_key(session) + _U64.pack(slot)


def pack(value: Any) -> bytes:
    """A row's value: one msgpack object."""
    return bytes(msgpack.packb(value, use_bin_type=True))


def unpack(data: bytes) -> Any:
    """The object of ``pack``, arrays as tuples."""
    return msgpack.unpackb(data, raw=False, use_list=False, strict_map_key=False)
