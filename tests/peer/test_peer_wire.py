"""Frames, and the bounds of a line between two peers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer import wire
from ha_scheduler.peer.links import (
    BULK_BYTES_MAX,
    CONTROL_FRAMES_MAX,
    PROMPT_BYTES,
    Channel,
    Dialer,
    Line,
    Security,
)
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.raft.messages import Message


def read(data: bytes, bytes_max: int = 1000) -> Any:
    async def run() -> Any:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await wire.read_frame(reader, bytes_max)

    return asyncio.run(run())


def test_what_was_packed_is_read() -> None:
    value = {"a": (1, b"\x00", None, True, "ü"), 7: ()}
    assert read(wire.pack(value)) == value


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(wire.WireError, match="over the limit"):
        read(wire.pack(bytes(2000)))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x92\x01", b"\x01\x01", b"\xc7\x01\x05x"])
def test_bytes_that_are_no_frame_are_refused(body: bytes) -> None:
    with pytest.raises(wire.WireError):
        read(len(body).to_bytes(4, "big") + body)


def test_a_frame_that_breaks_off_is_the_end_of_the_stream() -> None:
    with pytest.raises(EOFError):
        read(wire.pack({"a": 1})[:-1])


class NoEvents:
    """Nobody listens."""

    def on_message(self, message: Message) -> None: ...

    def on_gossip(self, peer: int, news: dict[str, Any]) -> None: ...

    def on_unreachable(self, peer: int) -> None: ...

    def on_connected(self) -> None: ...

    def on_gone(self, reason: str) -> None: ...

    def admits(self, caller: PeerNamed) -> bool:
        return True


@pytest.fixture
def line() -> Line:
    return line_to_b(Channel.BULK)


def line_to_b(channel: Channel) -> Line:
    own = PeerNamed(1, 1, "a", "127.0.0.1", 3, 4, False, "")
    dialer = Dialer("cell", own, 600, Security(None, None), lambda shown, name: None, lambda: False)
    return Line(2, PeerAddress("b", "127.0.0.1", 1, 2), channel, dialer, NoEvents())


def test_a_line_that_is_down_drops_instead_of_queueing(line: Line) -> None:
    assert not line.put("raft", (1,))
    assert not line._queue


def test_a_line_is_bounded_in_frames_and_in_bytes(line: Line) -> None:
    line.connected = True
    assert line.put("raft", (), BULK_BYTES_MAX + 1), "one frame always fits"
    assert not line.put("raft", (), 1)
    line.connected = False
    small = line_to_b(Channel.CONTROL)
    small.connected = True
    assert all(small.put("raft", ()) for _ in range(CONTROL_FRAMES_MAX))
    assert not small.put("raft", ())


async def test_what_may_linger_goes_with_the_next_frame_or_soon_by_itself(line: Line) -> None:
    line.connected = True
    assert line.put("raft", "news", lingers=True)
    line.flush()
    assert not line._some.is_set(), "nobody is woken for it"
    assert line.put("raft", "append")
    line.flush()
    assert line._some.is_set()
    assert read_all([line._frames()]) == [("raft", "news"), ("raft", "append")]
    line._some.clear()
    assert line.put("raft", "news", lingers=True)
    async with asyncio.timeout(10):
        await line._some.wait()


async def test_a_frame_is_on_the_wire_when_flush_returns_unless_the_connection_is_behind(
    line: Line,
) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        _, writer = await asyncio.open_connection(sock=ours)
        line.connected, line._writer = True, writer
        line.put("raft", "first")
        line.put("raft", "second")
        line.flush()
        assert read_all([theirs.recv(1000)]) == [("raft", "first"), ("raft", "second")]
        assert not line._some.is_set(), "nobody is woken for what has left"
        line.put("raft", "large", PROMPT_BYTES + 1)
        line.flush()
        assert line._some.is_set(), "the own disk does not wait until much is encrypted"
        line._queue.clear()
        line._queued_bytes = 0
        line._some.clear()
        writer.write(bytes(16 * 1024 * 1024))  # more than a socket takes
        line.put("raft", "third")
        line.flush()
        assert line._some.is_set(), "it waits for the connection, and not in its buffer"
        assert len(line._queue) == 1
        writer.transport.abort()


def read_all(pieces: list[bytes]) -> list[Any]:
    """What a ``FrameReader`` gives for a stream that arrives in ``pieces``, until its end."""

    async def run() -> list[Any]:
        reader = asyncio.StreamReader()
        frames, values = wire.FrameReader(reader, 1000), []
        for piece in pieces:
            reader.feed_data(piece)
        reader.feed_eof()
        with contextlib.suppress(EOFError):
            while True:
                values += await frames.some()
        return values

    with ThreadPoolExecutor(1) as pool:  # the caller may be in a loop of its own
        return pool.submit(asyncio.run, run()).result()


def test_many_frames_are_read_however_the_stream_is_cut() -> None:
    values = [(n, bytes(n)) for n in range(50)]
    stream = b"".join(map(wire.pack, values))
    assert read_all([stream]) == values
    assert read_all([stream[n : n + 1] for n in range(len(stream))]) == values
    assert read_all([stream[:-1]]) == values[:-1], "what breaks off was never sent"


def test_a_frame_over_the_limit_among_others_is_refused() -> None:
    with pytest.raises(wire.WireError, match="over the limit"):
        read_all([wire.pack(1), (2000).to_bytes(4, "big")])
