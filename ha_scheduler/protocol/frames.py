"""Frames: four bytes of length (big-endian), then one message as msgpack.

Guarantee: frames are read as they were packed, in order. ``ProtocolError`` makes the connection
useless. A frame over the limit is refused by its length, before it is buffered.

The limits are those of a correct process, with room. A stranger gets the smallest one.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ha_scheduler.protocol.codec import ProtocolError

INTRODUCTION_BYTES_MAX = 16 * 1024  # some names and a token, of a stranger
REQUEST_BYTES_MAX = 64 * 1024  # of an operator
WATCH_BYTES_MAX = 1024 * 1024  # a view names a handful of peers
CONTROL_BYTES_MAX = 4 * 1024 * 1024  # an answer to an operator; a history is some kilobytes
ENGINE_BYTES_MAX = 1024 * 1024  # a record is at most 768 KiB
ENGINE_WORDS_BYTES_MAX = 4 * 1024  # of an engine's message that carries no record
PEER_BYTES_MAX = 32 * 1024 * 1024  # the largest append that the core makes

READ_BYTES = 256 * 1024  # taken from a connection in one go

_LENGTH = struct.Struct(">I")
_ENCODER = msgspec.msgpack.Encoder()


def pack(message: Any) -> bytes:
    """One frame. Raises what msgspec raises for what it cannot encode."""
    body = _ENCODER.encode(message)
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """From chunks of a stream to bodies of frames, for ``MessageSet.decode``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()  # of an incomplete frame

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that ``data`` completes. Raises ``ProtocolError``."""
        bodies: list[bytes] = []
        if not self._rest:  # mostly: then nothing is copied twice
            self._rest += data[self._take(data, bodies) :]
        else:
            self._rest += data
            del self._rest[: self._take(self._rest, bodies)]
        return bodies

    def _take(self, data: bytes | bytearray, bodies: list[bytes]) -> int:
        """Append the bodies of complete frames. Returns the start of the next frame."""
        start, have = 0, len(data)
        while have - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, start)
            if length > self._limit:
                raise _too_long(length, self._limit)
            body, end = start + _LENGTH.size, start + _LENGTH.size + length
            if end > have:
                break
            bodies.append(bytes(data[body:end]))
            start = end
        return start


async def read(exactly: Callable[[int], Awaitable[bytes]], limit: int) -> bytes:
    """The next body of a stream; ``exactly(n)`` reads n bytes, and its errors propagate.

    ``exactly`` is ``StreamReader.readexactly``, or ``read_bytes`` of a tornado stream. Raises
    ``ProtocolError``.
    """
    return await exactly(_length_of(await exactly(_LENGTH.size), limit))


def receive(exactly: Callable[[int], bytes], limit: int) -> bytes:
    """``read``, blocking."""
    return exactly(_length_of(exactly(_LENGTH.size), limit))


async def read_some(reader: asyncio.StreamReader, decoder: Decoder) -> list[bytes]:
    """The next bodies of a busy stream, at least one. Raises ``ProtocolError``, ``EOFError``."""
    while True:
        data = await reader.read(READ_BYTES)
        if not data:
            raise EOFError("the other side closed the connection")
        if bodies := decoder.feed(data):
            return bodies


def _length_of(header: bytes, limit: int) -> int:
    (length,) = _LENGTH.unpack(header)
    if length > limit:
        raise _too_long(length, limit)
    return int(length)


def _too_long(length: int, limit: int) -> ProtocolError:
    return ProtocolError(f"a frame of {length} bytes is over the limit of {limit}")
