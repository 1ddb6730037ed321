"""Dask keys as bytes, for records and tables.

Guarantee: ``decode_key(encode_key(key)) == key`` for every key that Dask allows (str, bytes, int,
float, or nested tuples of them), and equal keys have equal bytes.
"""

from __future__ import annotations

from typing import Any

import msgpack

Key = Any  # dask.typing.Key: str | bytes | int | float | tuple[Key, ...]

_packer = msgpack.Packer(use_bin_type=True, autoreset=True)


def encode_key(key: Key) -> bytes:
    """The key's bytes."""
    return bytes(_packer.pack(key))


def decode_key(data: bytes) -> Key:
    """The key of ``encode_key``."""
    return msgpack.unpackb(data, raw=False, use_list=False)
