"""Frames: whole, in order, within their limit, or an error that the caller knows."""

from __future__ import annotations

import asyncio
import io
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import ProtocolError


@given(st.lists(st.binary(), max_size=5), st.integers(1, 9))
def test_frames_come_whole_and_in_order_however_the_bytes_arrive(
    values: list[bytes], step: int
) -> None:
    stream = b"".join(map(frames.pack, values))
    decoder, got = frames.Decoder(1000), []
    for at in range(0, len(stream), step):
        got += decoder.feed(stream[at : at + step])
    assert list(map(msgspec.msgpack.decode, got)) == values


def _with_decoder(data: bytes, limit: int) -> Any:
    return frames.Decoder(limit).feed(data)


def _with_read(data: bytes, limit: int) -> Any:
    async def run() -> Any:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await frames.read(reader.readexactly, limit)

    return asyncio.run(run())


def _with_receive(data: bytes, limit: int) -> Any:
    stream = io.BytesIO(data)

    def exactly(count: int) -> bytes:
        got = stream.read(count)
        if len(got) < count:
            raise EOFError
        return got

    return frames.receive(exactly, limit)


@pytest.mark.parametrize("take", [_with_decoder, _with_read, _with_receive])
def test_a_frame_over_the_limit_is_refused_by_its_length(take: Callable[[bytes, int], Any]) -> None:
    with pytest.raises(ProtocolError, match="a frame of 11 bytes is over the limit of 10"):
        take(struct.pack(">I", 11), 10)
    body = msgspec.msgpack.encode(b"x" * 8)
    assert take(frames.pack(b"x" * 8), 10) in (body, [body])


def test_nothing_of_a_frame_over_the_limit_is_read() -> None:
    asked: list[int] = []

    def exactly(count: int) -> bytes:
        asked.append(count)
        return b"\xff" * count

    with pytest.raises(ProtocolError, match="4294967295 bytes"):
        frames.receive(exactly, frames.PEER_BYTES_MAX)
    assert asked == [4]


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_protocol_errors(data: bytes) -> None:
    try:
        frames.Decoder(100).feed(data)
    except ProtocolError:
        pass


def test_several_frames_of_one_packet_are_read_in_one_step() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        with theirs:
            theirs.sendall(frames.pack(1) + frames.pack(2) + frames.pack(3)[:-1])
            decoder = frames.Decoder(100)
            assert await frames.read_some(reader, decoder) == [b"\x01", b"\x02"]
            theirs.sendall(frames.pack(3)[-1:])
            assert await frames.read_some(reader, decoder) == [b"\x03"]
        with pytest.raises(EOFError):
            await frames.read_some(reader, decoder)
        writer.close()
        await writer.wait_closed()

    asyncio.run(run())
