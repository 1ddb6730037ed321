"""Dask keys as bytes, for records and tables.

Guarantee: ``decode_key(encode_key(key)) == key`` for every key that Dask allows (str, bytes, int,
float, nested tuples of them), and equal keys have equal bytes.
"""

from __future__ import annotations

import msgpack
from dask.typing import Key

__all__ = ["Key", "decode_key", "encode_key"]

_packer = msgpack.Packer(use_bin_type=True, autoreset=True)


def encode_key(key: Key) -> bytes:
    return bytes(_packer.pack(key))


def decode_key(data: bytes) -> Key:
    key: Key = msgpack.unpackb(data, raw=False, use_list=False)
    return key
