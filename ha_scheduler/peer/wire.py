"""Frames on the peer port: four bytes of length, then msgpack.

Guarantee: ``read_frame`` returns exactly what the other side packed, or raises; never more than the
stated limit is held for one frame. The limit before authentication is small, so that a stranger
cannot make a daemon hold memory.

The first frame of a connection says who calls and why (``hello``); the answer is ``{"ok": true}``
or a refusal with a reason that is meant to be read by the operator of the other side.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgpack

HELLO_BYTES_MAX = 16 * 1024  # a hello is some names; a stranger gets no more memory than this
FRAME_BYTES_MAX = 32 * 1024 * 1024  # the largest append the core makes, with room
REQUEST_BYTES_MAX = 64 * 1024  # what a watcher or an operator may send in one frame
HELLO_TIMEOUT_S = 5.0  # seconds a caller has to say who it is, TLS included
VERSION = 3  # of the frames; a peer refuses another one by name
READ_BYTES = 256 * 1024  # taken from a connection in one go

_LENGTH = struct.Struct(">I")


class WireError(Exception):
    """Peer: the other side sent bytes that are no frame, or one over the limit."""


def pack(value: Any) -> bytes:
    """One frame."""
    body: bytes = msgpack.packb(value, use_bin_type=True)
    return _LENGTH.pack(len(body)) + body


def unpack(body: bytes | memoryview) -> Any:
    """The value of a frame's body. Raises ``WireError``."""
    try:
        return msgpack.unpackb(body, raw=False, use_list=False, strict_map_key=False, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError(f"not a frame of this protocol: {error}") from error


async def read_frame(reader: asyncio.StreamReader, bytes_max: int = FRAME_BYTES_MAX) -> Any:
    """The next value. Raises ``WireError``, ``asyncio.IncompleteReadError`` at the end."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > bytes_max:
        raise WireError(_over(length, bytes_max))
    return unpack(await reader.readexactly(length))


class FrameReader:
    """The frames of a connection that brings many: all that came in one packet in one step."""

    def __init__(self, reader: asyncio.StreamReader, bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._reader = reader
        self._bytes_max = bytes_max
        self._buffer = bytearray()

    async def some(self) -> list[Any]:
        """The next values, at least one. Raises as ``read_frame``."""
        while True:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise asyncio.IncompleteReadError(bytes(self._buffer), None)
            self._buffer += data
            values = self._take()
            if values:
                return values

    def _take(self) -> list[Any]:
        values: list[Any] = []
        start, have = 0, len(self._buffer)
        with memoryview(self._buffer) as view:
            while have - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(view, start)
                if length > self._bytes_max:
                    raise WireError(_over(length, self._bytes_max))
                body, end = start + _LENGTH.size, start + _LENGTH.size + length
                if end > have:
                    break
                with view[body:end] as part:
                    values.append(unpack(part))
                start = end
        del self._buffer[:start]
        return values


async def read_dict(reader: asyncio.StreamReader, bytes_max: int) -> dict[str, Any]:
    """The next value, which must be a map."""
    value = await read_frame(reader, bytes_max)
    if not isinstance(value, dict):
        raise WireError(f"expected a map, got {type(value).__name__}")
    return value


def refusal(reason: str, **more: Any) -> dict[str, Any]:
    """The answer to a caller that is not let in, or to a request that is not done."""
    return {"ok": False, "reason": reason, **more}


def _over(length: int, bytes_max: int) -> str:
    return f"a frame of {length} bytes is over the limit of {bytes_max}"
