"""The bounds of a stream between two peers, and when what it takes leaves."""

from __future__ import annotations

import asyncio
import itertools
import socket

import pytest

from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer.network.links import (
    BULK_BYTES_MAX,
    CONTROL_FRAMES_MAX,
    PROMPT_BYTES,
    Dialer,
    PeerStream,
    Security,
)
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.peer import ON_A_STREAM, Gossip, PeerAddress, Purpose, RaftMessage
from ha_scheduler.raft.messages import Message, MessageKind
from ha_scheduler.raft.wire import message_from_wire


def append(index: int) -> Message:
    return Message(MessageKind.APPEND, to=2, source=1, term=1, index=index)


class NoEvents:
    """Nobody listens."""

    def on_message(self, message: Message) -> None: ...

    def on_gossip(self, peer: int, news: Gossip) -> None: ...

    def on_unreachable(self, peer: int) -> None: ...

    def on_connected(self, peer: int) -> None: ...

    def on_gone(self, peer: int, reason: str) -> None: ...

    def admits(self, caller: PeerNamed) -> bool:
        return True


@pytest.fixture
def stream() -> PeerStream:
    return stream_to_b(Purpose.BULK)


def stream_to_b(purpose: Purpose) -> PeerStream:
    own = PeerNamed(1, 1, "a", "127.0.0.1", 3, 4, False, "")
    dialer = Dialer("cell", own, 600, Security(None, None), lambda: False, str)
    return PeerStream(2, (PeerAddress("b", "127.0.0.1", 1, 2),), purpose, dialer, NoEvents())


def test_a_stream_that_is_down_drops_instead_of_queueing(stream: PeerStream) -> None:
    assert not stream.put(append(1))
    assert not stream._queue


def test_a_stream_is_bounded_in_frames_and_in_bytes(stream: PeerStream) -> None:
    stream.connected = True
    assert stream.put(append(1), BULK_BYTES_MAX + 1), "one frame always fits"
    assert not stream.put(append(2), 1)
    stream.connected = False
    small = stream_to_b(Purpose.CONTROL)
    small.connected = True
    assert all(small.put(append(n)) for n in range(CONTROL_FRAMES_MAX))
    assert not small.put(append(0))


async def test_a_frame_may_linger_until_the_next_or_a_moment_by_itself(stream: PeerStream) -> None:
    stream.connected = True
    assert stream.put(append(1), lingers=True)
    stream.flush()
    assert not stream._some.is_set(), "nobody is woken for it"
    assert stream.put(append(2))
    stream.flush()
    assert stream._some.is_set()
    assert read_all(stream._frames()) == [1, 2]
    stream._some.clear()
    assert stream.put(append(1), lingers=True)
    async with asyncio.timeout(10):
        await stream._some.wait()


async def test_a_frame_is_on_the_wire_when_flush_returns_unless_the_connection_is_behind(
    stream: PeerStream,
) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        _, writer = await asyncio.open_connection(sock=ours)
        stream.connected, stream._writer = True, writer
        stream.put(append(1))
        stream.put(append(2))
        stream.flush()
        assert read_all(theirs.recv(1000)) == [1, 2]
        assert not stream._some.is_set(), "nobody is woken for what has left"
        stream.put(append(3), PROMPT_BYTES + 1)
        stream.flush()
        assert stream._some.is_set(), "the own disk does not wait until much is encrypted"
        stream._queue.clear()
        stream._queued_bytes = 0
        stream._some.clear()
        writer.write(bytes(16 * 1024 * 1024))  # more than a socket takes
        stream.put(append(4))
        stream.flush()
        assert stream._some.is_set(), "it waits for the connection, and not in its buffer"
        assert len(stream._queue) == 1
        writer.transport.abort()


def read_all(*pieces: bytes) -> list[int]:
    """The indices of the messages in what left a stream."""
    decoder = frames.Decoder(frames.PEER_BYTES_MAX)
    bodies = itertools.chain.from_iterable(map(decoder.feed, pieces))
    messages = [ON_A_STREAM.decode(body) for body in bodies]
    return [message_from_wire(m.body).index for m in messages if isinstance(m, RaftMessage)]
