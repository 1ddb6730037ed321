"""Frames: whole, in order, within their limit, or an error that the caller knows."""

from __future__ import annotations

import asyncio
import io
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import ProtocolError, message

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=10,
)


@message("note")
class Note:
    text: str


@given(st.lists(VALUES, max_size=5), st.integers(1, 9))
def test_frames_come_whole_and_in_order_however_the_bytes_arrive(
    values: list[Any], step: int
) -> None:
    stream = b"".join(map(frames.pack, values))
    decoder, got = frames.Decoder(1000), []
    for at in range(0, len(stream), step):
        got += decoder.feed(stream[at : at + step])
    assert got == values


def test_messages_are_arrays_wherever_they_stand() -> None:
    packed = frames.pack((Note("a"), {"b": Note("c")}))
    assert frames.unpack(packed[4:]) == (("note", "a"), {"b": ("note", "c")})


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
    assert take(frames.pack(b"x" * 8), 10) in (b"x" * 8, [b"x" * 8])


def test_nothing_of_a_frame_over_the_limit_is_read() -> None:
    asked: list[int] = []

    def exactly(count: int) -> bytes:
        asked.append(count)
        return b"\xff" * count

    with pytest.raises(ProtocolError, match="4294967295 bytes"):
        frames.receive(exactly, frames.PEER_BYTES_MAX)
    assert asked == [4]


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_protocol_errors(data: bytes) -> None:
    for body in (data, struct.pack(">I", len(data)) + data):
        try:
            frames.Decoder(1000).feed(body)
        except ProtocolError:
            pass


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",  # no type
        b"\xa2\xff\xff",  # no UTF-8
        b"\x91" * 5000,  # nested without end
        b"\xdd\xff\xff\xff\xff",  # an array of four billion
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\xc7\x01\x05x",  # an extension
        b"\x81\x80\x01",  # a map for a key
        b"\x01\x02",  # more than one value
        b"",
    ],
)
def test_a_body_that_is_no_value_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a frame of this protocol"):
        frames.unpack(body)


def test_several_frames_of_one_packet_are_read_in_one_step() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        with theirs:
            theirs.sendall(frames.pack(1) + frames.pack(2) + frames.pack(3)[:-1])
            decoder = frames.Decoder(100)
            assert await frames.read_some(reader, decoder) == [1, 2]
            theirs.sendall(frames.pack(3)[-1:])
            assert await frames.read_some(reader, decoder) == [3]
        with pytest.raises(EOFError):
            await frames.read_some(reader, decoder)
        writer.close()
        await writer.wait_closed()

    asyncio.run(run())
