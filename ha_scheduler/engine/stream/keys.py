"""Dask keys as bytes, for records and tables.

Guarantee: ``decode_key(encode_key(key)) == key`` for every key that Dask allows (str, bytes, int,
float, nested tuples of them), and equal keys have equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack
from dask.typing import Key

from ha_scheduler.ledger.records import NAME_CHARS_MAX, ROW_NAME_BYTES_MAX
from ha_scheduler.protocol.codec import shown
from ha_scheduler.protocol.keys import key_fault

__all__ = [
    "Key",
    "check_client",
    "decode_key",
    "encode_key",
    "encode_name",
    "pack_keys",
    "unpack_keys",
]

_packer = msgpack.Packer(use_bin_type=True, autoreset=True)


def encode_key(key: Key) -> bytes:
    return bytes(_packer.pack(key))


def encode_name(key: Any) -> bytes:
    """The name of a row. Raises ``ValueError`` for one that no record can hold."""
    data = encode_key(key)
    if len(data) > ROW_NAME_BYTES_MAX:
        raise ValueError(
            f"the name {shown(key)} has {len(data)} bytes, and may have {ROW_NAME_BYTES_MAX}"
        )
    return data


def check_client(name: str) -> None:
    """Raise ``ValueError`` for a client, or a pseudo-client, that no record can name."""
    if fault := key_fault(name):
        raise ValueError(f"the client {fault}")
    if len(name) > NAME_CHARS_MAX:
        raise ValueError(
            f"the client {shown(name)} has {len(name)} characters, and may have {NAME_CHARS_MAX}"
        )


def decode_key(data: bytes) -> Key:
    key: Key = msgpack.unpackb(data, raw=False, use_list=False)
    return key


def pack_keys(keys: Iterable[Key]) -> bytes:
    """Any number of keys at once."""
    return bytes(_packer.pack(list(keys)))


def unpack_keys(data: bytes) -> list[Key]:
    """The inverse of ``pack_keys``."""
    keys: tuple[Key, ...] = msgpack.unpackb(data, raw=False, use_list=False)
    return list(keys)
