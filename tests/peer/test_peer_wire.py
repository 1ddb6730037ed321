"""The bounds of a line between two peers, and when what it takes leaves."""

from __future__ import annotations

import asyncio
import itertools
import socket

import pytest

from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer.links import (
    BULK_BYTES_MAX,
    CONTROL_FRAMES_MAX,
    PROMPT_BYTES,
    Dialer,
    Line,
    Security,
)
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.peer import ON_A_LINE, Channel, Gossip, PeerAddress, RaftMessage
from ha_scheduler.raft.messages import Message, MessageKind
from ha_scheduler.raft.wire import message_from_wire


def append(index: int) -> Message:
    return Message(MessageKind.APPEND, to=2, source=1, term=1, index=index)


class NoEvents:
    """Nobody listens."""

    def on_message(self, message: Message) -> None: ...

    def on_gossip(self, peer: int, news: Gossip) -> None: ...

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
    assert not line.put(append(1))
    assert not line._queue


def test_a_line_is_bounded_in_frames_and_in_bytes(line: Line) -> None:
    line.connected = True
    assert line.put(append(1), BULK_BYTES_MAX + 1), "one frame always fits"
    assert not line.put(append(2), 1)
    line.connected = False
    small = line_to_b(Channel.CONTROL)
    small.connected = True
    assert all(small.put(append(n)) for n in range(CONTROL_FRAMES_MAX))
    assert not small.put(append(0))


async def test_what_may_linger_goes_with_the_next_frame_or_soon_by_itself(line: Line) -> None:
    line.connected = True
    assert line.put(append(1), lingers=True)
    line.flush()
    assert not line._some.is_set(), "nobody is woken for it"
    assert line.put(append(2))
    line.flush()
    assert line._some.is_set()
    assert read_all(line._frames()) == [1, 2]
    line._some.clear()
    assert line.put(append(1), lingers=True)
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
        line.put(append(1))
        line.put(append(2))
        line.flush()
        assert read_all(theirs.recv(1000)) == [1, 2]
        assert not line._some.is_set(), "nobody is woken for what has left"
        line.put(append(3), PROMPT_BYTES + 1)
        line.flush()
        assert line._some.is_set(), "the own disk does not wait until much is encrypted"
        line._queue.clear()
        line._queued_bytes = 0
        line._some.clear()
        writer.write(bytes(16 * 1024 * 1024))  # more than a socket takes
        line.put(append(4))
        line.flush()
        assert line._some.is_set(), "it waits for the connection, and not in its buffer"
        assert len(line._queue) == 1
        writer.transport.abort()


def read_all(*pieces: bytes) -> list[int]:
    """The indices of the messages in what left a line."""
    decoder = frames.Decoder(frames.PEER_BYTES_MAX)
    bodies = itertools.chain.from_iterable(map(decoder.feed, pieces))
    messages = [ON_A_LINE.decode(body) for body in bodies]
    return [message_from_wire(m.fields).index for m in messages if isinstance(m, RaftMessage)]
