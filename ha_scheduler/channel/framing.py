"""Channel messages as frames on a stream: four bytes of length, then msgpack.

Guarantee: ``Decoder`` yields exactly the messages whose bytes have arrived whole, in order. Bytes
that are no message raise ``ChannelError``; after that the stream is unusable and both ends exit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgpack

from ha_scheduler.channel import messages
from ha_scheduler.channel.messages import ChannelMessage, PeerAddress, Welcome

FRAME_BYTES_MAX = 4 * 1024 * 1024  # a record is at most 768 KiB; anything near this is a defect
_LENGTH = struct.Struct(">I")

_BY_KIND: dict[int, type[ChannelMessage]] = {
    cls.KIND: cls
    for cls in (
        messages.Welcome,
        messages.Committed,
        messages.CaughtUp,
        messages.Activate,
        messages.Ping,
        messages.Ready,
        messages.Propose,
        messages.Serving,
        messages.Mark,
        messages.Pong,
    )
}


class ChannelError(Exception):
    """Local: the daemon and its engine are not of one release, or one of them is broken."""


def encode(message: ChannelMessage) -> bytes:
    """One frame."""
    fields = [getattr(message, name) for name in message.__slots__]
    if isinstance(message, Welcome):
        fields[2] = [(p.name, p.host, p.peer_port, p.dask_port) for p in message.peers]
    body = msgpack.packb((message.KIND, *fields), use_bin_type=True)
    return _LENGTH.pack(len(body)) + bytes(body)


class Decoder:
    """Turns chunks of a stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[ChannelMessage]:
        """The messages completed by ``data``. Raises ``ChannelError``."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > FRAME_BYTES_MAX:
                raise ChannelError(f"a frame of {length} bytes is over the limit")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            body = bytes(memoryview(self._buffer)[start + _LENGTH.size : end])
            start = end
            yield _decode(body)
        del self._buffer[:start]


def _decode(body: bytes) -> ChannelMessage:
    try:
        kind, *fields = msgpack.unpackb(body, raw=False, use_list=False, strict_map_key=False)
        cls = _BY_KIND[kind]
        if cls is Welcome:
            fields[2] = tuple(PeerAddress(*peer) for peer in fields[2])
        return cls(*fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ChannelError(f"not a channel message: {error!r}") from error
