"""Dask keys as bytes, for records and tables.

Guarantee: ``decode_key(encode_key(key)) == key`` for every key that Dask allows (str, bytes, int,
float, nested tuples of them), and equal keys have equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgpack
from dask.typing import Key

__all__ = ["Key", "decode_key", "encode_key", "pack_keys", "unpack_keys"]

_packer = msgpack.Packer(use_bin_type=True, autoreset=True)


def encode_key(key: Key) -> bytes:
    return bytes(_packer.pack(key))


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
