"""Frames: four bytes of length (big-endian), then one msgpack value.

Guarantee: what is read is exactly what the other side packed, in order, or ``ProtocolError`` is
raised, whatever the bytes are; then the connection is of no use any more. A frame over the limit is
refused by its length, before any of it is held.

The limits are those of what a correct process sends, with room. A stranger gets the smallest one.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack

from ha_scheduler.protocol.codec import ProtocolError, encode

INTRODUCTION_BYTES_MAX = 16 * 1024  # some names and a token; a stranger gets no more memory
REQUEST_BYTES_MAX = 64 * 1024  # what a watcher or an operator may send in one frame
WATCH_BYTES_MAX = 1024 * 1024  # a view names a handful of peers
CONTROL_BYTES_MAX = 4 * 1024 * 1024  # an answer to an operator; a history is some kilobytes
ENGINE_BYTES_MAX = 4 * 1024 * 1024  # a record is at most 768 KiB
PEER_BYTES_MAX = 32 * 1024 * 1024  # the largest append that the core makes

LENGTH = struct.Struct(">I")
READ_BYTES = 256 * 1024  # taken from a connection in one go


def pack(value: Any) -> bytes:
    """One frame. Messages in ``value`` become arrays. Raises ``TypeError`` and ``ValueError``."""
    body: bytes = msgpack.packb(value, use_bin_type=True, default=encode)
    return LENGTH.pack(len(body)) + body


def unpack(body: bytes | memoryview) -> Any:
    """The value of a frame's body, arrays as tuples. Raises ``ProtocolError``."""
    try:
        return msgpack.unpackb(body, raw=False, use_list=False, strict_map_key=False, max_ext_len=0)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not a frame of this protocol: {error}") from error


def length_of(header: bytes, limit: int) -> int:
    """The length of the body that follows these four bytes. Raises ``ProtocolError``."""
    (length,) = LENGTH.unpack(header)
    if length > limit:
        raise _too_long(length, limit)
    return int(length)


def _too_long(length: int, limit: int) -> ProtocolError:
    return ProtocolError(f"a frame of {length} bytes is over the limit of {limit}")


class Decoder:
    """Turns the chunks of a stream into values."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()  # of a frame that has not come whole

    def feed(self, data: bytes) -> list[Any]:
        """The values that ``data`` completes. Raises ``ProtocolError``."""
        values: list[Any] = []
        if not self._rest:  # mostly: then nothing is copied
            self._rest += data[self._take(data, values) :]
        else:
            self._rest += data
            del self._rest[: self._take(self._rest, values)]
        return values

    def _take(self, data: bytes | bytearray, values: list[Any]) -> int:
        """Append the values of the whole frames; where the next frame begins."""
        start, have = 0, len(data)
        with memoryview(data) as view:
            while have - start >= LENGTH.size:
                (length,) = LENGTH.unpack_from(data, start)
                if length > self._limit:
                    raise _too_long(length, self._limit)
                body, end = start + LENGTH.size, start + LENGTH.size + length
                if end > have:
                    break
                values.append(unpack(view[body:end]))
                start = end
        return start


async def read(exactly: Callable[[int], Awaitable[bytes]], limit: int) -> Any:
    """The next value of a stream of which ``exactly(n)`` reads n bytes.

    That is ``StreamReader.readexactly``, or ``read_bytes`` of a tornado stream. Raises
    ``ProtocolError``, and what ``exactly`` raises.
    """
    return unpack(await exactly(length_of(await exactly(LENGTH.size), limit)))


def receive(exactly: Callable[[int], bytes], limit: int) -> Any:
    """``read`` for who blocks."""
    return unpack(exactly(length_of(exactly(LENGTH.size), limit)))


async def read_some(reader: asyncio.StreamReader, decoder: Decoder) -> list[Any]:
    """The next values of a stream that brings many, at least one: all of one packet in one step.

    Raises ``ProtocolError``, ``EOFError`` at the end.
    """
    while True:
        data = await reader.read(READ_BYTES)
        if not data:
            raise EOFError("the other side closed the connection")
        if values := decoder.feed(data):
            return values
