"""Peer links: the transport of the consensus core.

Guarantee: a message arrives at most once per connection, in the order of its stream, from the peer
of the certificate; or not at all. The core needs no more.

Each peer dials two one-way streams to every other member, and to an unknown caller (a *guest*:
perhaps a new leader). The *control* stream carries heartbeats, votes, acknowledgements and gossip,
the *bulk* stream appends, so that no large entry delays a heartbeat.

Queues are bounded. A full queue drops messages, since the core retries; a broken stream drops its
queue.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Raw

from ha_scheduler.backoff import Backoff
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer.members.releases import distributed_release
from ha_scheduler.peer.members.roster import address_of, disk_of
from ha_scheduler.peer.network.lost_quorum import in_words
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import ProtocolError
from ha_scheduler.protocol.introduction import Kind, RefusedError, accepted, introduce
from ha_scheduler.protocol.peer import (
    ON_A_STREAM,
    Gossip,
    PeerAddress,
    PeerHello,
    Purpose,
    RaftMessage,
)
from ha_scheduler.raft.errors import PeerError
from ha_scheduler.raft.messages import Message, MessageKind
from ha_scheduler.raft.wire import message_from_wire, message_to_wire
from ha_scheduler.security.tls import check_peer

CONTROL_FRAMES_MAX = 1024  # queued on a control stream; a second of silence costs some tens
BULK_BYTES_MAX = 48 * 1024 * 1024  # queued on a bulk stream; above what the core has in flight
CONNECT_TIMEOUT_S = 2.0
USER_TIMEOUT_MS = 3000  # unacknowledged for this long: the connection is dead (TCP_USER_TIMEOUT)
STREAM_LIMIT_BYTES = 1024 * 1024  # read-ahead of a connection
SILENCE_MAX_S = 10.0  # a control stream brings gossip twice a second
SILENCE_STEP_S = 1.0  # how exactly silence is measured: a timer for each frame costs too much
LINGER_S = 0.002  # a commit index waits so long for an append to carry it
WRITE_BYTES = 256 * 1024  # queued frames are written together, up to about this size
PROMPT_BYTES = 64 * 1024  # more is encrypted while the own disk writes, not before
GUESTS_MAX = 16  # callers with unknown disks; a cell has a few at most

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Security:
    """TLS of this daemon; both None in plaintext on loopback, if the operator asked for it."""

    server: ssl.SSLContext | None
    client: ssl.SSLContext | None

    async def connect(self, to: PeerAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the peer port of ``to``. Raises ``OSError`` and ``RefusedError``."""
        reader, writer = await asyncio.open_connection(
            to.host,
            to.peer_port,
            ssl=self.client,
            # Certificates name peers, and peers may be reached by any address of theirs.
            server_hostname="" if self.client is not None else None,
            limit=STREAM_LIMIT_BYTES,
        )
        try:
            check_peer(writer.get_extra_info("ssl_object"), to.name)
        except RefusedError:
            writer.transport.abort()
            raise
        return reader, writer


class Dialer:
    """Opens authenticated connections to the other peers."""

    def __init__(
        self,
        cell: str,
        own: PeerNamed,
        promise_ms: int,
        security: Security,
        fresh: Callable[[], bool],
        cell_id: Callable[[], str],
    ) -> None:
        """``promise_ms``: of ``Timing``. ``fresh``: whether our log is empty."""
        self._cell = cell
        self._own = own
        self._promise_ms = promise_ms
        self._fresh = fresh
        self._cell_id = cell_id
        self._security = security
        self._distributed = distributed_release()

    async def dial(
        self, peer: int, to: PeerAddress, purpose: Purpose
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """An authenticated connection to the disk ``peer`` at ``to``.

        Raises ``OSError``, ``ProtocolError`` and ``RefusedError``.
        """
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await self._security.connect(to)
            try:
                own = disk_of(self._own)
                fresh, promise_ms, cell_id = self._fresh(), self._promise_ms, self._cell_id()
                hello = PeerHello(
                    to.name, peer, purpose, fresh, promise_ms, own, cell_id, self._distributed
                )
                introduction = introduce(Kind.PEER, self._cell, own.name)
                writer.write(frames.pack(introduction) + frames.pack(hello))
                for _ in (introduction, hello):
                    accepted(await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX))
            except BaseException:
                writer.close()
                raise
        tune(writer)
        return reader, writer


class LinkEvents(Protocol):
    """Messages that came in, and the state of the streams."""

    def on_message(self, message: Message) -> None: ...

    def on_gossip(self, peer: int, news: Gossip) -> None: ...

    def on_unreachable(self, peer: int) -> None: ...

    def on_connected(self, peer: int) -> None: ...

    def on_gone(self, peer: int, reason: str) -> None:
        """``peer`` refuses this disk as one that has left the cell."""

    def admits(self, caller: PeerNamed) -> bool:
        """Whether the caller may still act as a peer of the cell."""


class PeerStream:
    """A one-way stream to one peer: a bounded queue over a connection with retries."""

    def __init__(
        self,
        peer: int,
        places: Sequence[PeerAddress],
        purpose: Purpose,
        dialer: Dialer,
        events: LinkEvents,
    ) -> None:
        """``places``: where the peer may be, the likeliest first; they are tried in turn."""
        self.connected = False
        self.failure = "not tried yet"  # why it is not connected
        self.to = places[0]
        self._places = tuple(places)
        self._peer = peer
        self._purpose = purpose
        self._dialer = dialer
        self._events = events
        self._queue: deque[tuple[Message | Gossip, int]] = deque()
        self._queued_bytes = 0
        self._writer: asyncio.StreamWriter | None = None
        self._urgent = False  # whether a queued frame may not linger
        self._some = asyncio.Event()  # frames that ``flush`` left in the queue
        self._lingering = False
        self._nudge = asyncio.Event()

    def put(self, message: Message | Gossip, size: int = 0, *, lingers: bool = False) -> bool:
        """Queue a message for ``flush``; false when it was dropped.

        ``lingers``: it may wait a moment to go with another frame. Order is kept.
        """
        full = len(self._queue) >= CONTROL_FRAMES_MAX or (
            self._queued_bytes + size > BULK_BYTES_MAX and bool(self._queue)
        )
        if full or not self.connected:
            return False
        self._queue.append((message, size))
        self._queued_bytes += size
        if not lingers:
            self._urgent = True
        elif not self._lingering and not self._urgent:
            self._lingering = True
            asyncio.get_running_loop().call_later(LINGER_S, self._linger_no_more)
        return True

    def flush(self) -> None:
        """What may not linger leaves at once; soon, if it is much or the connection is behind."""
        if not self._urgent:
            return
        self._urgent = False
        writer, little = self._writer, self._queued_bytes <= PROMPT_BYTES
        if writer is not None and little and not writer.transport.get_write_buffer_size():
            writer.write(self._frames())
        if self._queue:
            self._some.set()

    def _linger_no_more(self) -> None:
        self._lingering = False
        self._urgent = bool(self._queue)
        self.flush()

    def may_be_at(self, places: Sequence[PeerAddress]) -> bool:
        """News of where the peer may be. Returns whether this stream is good for that."""
        if self.connected and self.to not in places:
            return False
        if not self.connected and tuple(places) != self._places:
            self.to = places[0]
            self._nudge.set()
        self._places = tuple(places)
        return True

    def _next_place(self) -> None:
        known = self._places
        at = known.index(self.to) + 1 if self.to in known else 0
        self.to = known[at % len(known)]

    def nudge(self) -> None:
        """The other peer is up: dial it now."""
        self._nudge.set()

    async def run(self) -> None:
        """Keep the connection until cancelled."""
        backoff = Backoff()
        refused = ""
        while True:
            try:
                reader, writer = await self._dialer.dial(self._peer, self.to, self._purpose)
            except (OSError, TimeoutError, EOFError, ProtocolError, ssl.SSLError) as error:
                self.failure = in_words(error)
                logger.debug("cannot reach peer %s: %s", self.to.name, error)
                self._next_place()
            except RefusedError as error:
                self.failure = f"it refuses us: {error}"
                if str(error) != refused:
                    refused = str(error)
                    logger.warning(
                        "peer %s refuses us: %s",
                        self.to.name,
                        error,
                        extra={"action": "peer_refused_us"},
                    )
                if error.gone:
                    self._events.on_gone(self._peer, str(error))
                self._next_place()
            else:
                backoff.reset()
                refused = ""
                await self._use(reader, writer)
            self._nudge.clear()
            await backoff.pause(self._nudge)

    async def _use(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected, self._writer = True, writer
        self._events.on_connected(self._peer)
        end = asyncio.ensure_future(reader.read(1))  # nothing is ever sent back on a stream
        sender = asyncio.ensure_future(self._send(writer))
        try:
            await asyncio.wait((end, sender), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.connected, self._writer = False, None
            self.failure = "the connection was lost"
            for task in (end, sender):
                task.cancel()
            await asyncio.gather(end, sender, return_exceptions=True)
            self._queue.clear()
            self._queued_bytes = 0
            writer.transport.abort()
            self._events.on_unreachable(self._peer)

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        while True:
            while self._queue:
                writer.write(self._frames())
                await writer.drain()
            self._some.clear()
            await self._some.wait()

    def _frames(self) -> bytes:
        """The next frames: one write, one TLS record and one wake-up for all."""
        packed: list[bytes] = []
        total = 0
        while self._queue and total < WRITE_BYTES:
            message, size = self._queue.popleft()
            self._queued_bytes -= size
            if isinstance(message, Message):
                packed.append(frames.pack(RaftMessage(Raw(message_to_wire(message)))))
            else:
                packed.append(frames.pack(message))
            total += len(packed[-1])
        return packed[0] if len(packed) == 1 else b"".join(packed)


class Links:
    """This peer's streams, and what comes in on those of the others."""

    def __init__(self, own_id: int, dialer: Dialer, events: LinkEvents) -> None:
        self._own_id = own_id
        self._dialer = dialer
        self._events = events
        self._members: dict[int, tuple[PeerAddress, ...]] = {}
        self._guests: dict[int, tuple[PeerAddress, ...]] = {}
        self._calls: Counter[int] = Counter()  # connections from each peer
        self._streams: dict[tuple[int, Purpose], PeerStream] = {}
        self._tasks: dict[PeerStream, asyncio.Task[None]] = {}
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def update(self, members: Mapping[int, tuple[PeerAddress, ...]]) -> None:
        """The members and where they may be; the own id may be among them."""
        self._members = dict(members)
        self._settle()

    def _settle(self) -> None:
        """Keep streams to the peers to be reached, and to nobody else."""
        wanted = {**self._guests, **self._members}
        wanted.pop(self._own_id, None)
        for key, stream in list(self._streams.items()):
            places = wanted.get(key[0])
            if places is None or not stream.may_be_at(places):
                del self._streams[key]
                self._tasks.pop(stream).cancel()
        for peer, places in wanted.items():
            for purpose in (Purpose.CONTROL, Purpose.BULK):
                if (peer, purpose) not in self._streams:
                    self._open(peer, places, purpose)

    def _open(self, peer: int, places: Sequence[PeerAddress], purpose: Purpose) -> None:
        stream = PeerStream(peer, places, purpose, self._dialer, self._events)
        self._streams[peer, purpose] = stream
        self._tasks[stream] = asyncio.create_task(stream.run())
        self._tasks[stream].add_done_callback(self._stream_ended)

    def _stream_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self._ended.done():
            self._ended.set_exception(error)  # a defect: a stream retries for ever

    def send(self, message: Message) -> None:
        """Queue for ``flush``, or drop; a dropped append is reported, so that the core probes."""
        bulk = message.kind is MessageKind.APPEND
        stream = self._streams.get((message.to, Purpose.BULK if bulk else Purpose.CONTROL))
        size = sum(len(entry.data) for entry in message.entries)
        lingers = bulk and not message.entries
        if stream is not None and not stream.put(message, size, lingers=lingers) and bulk:
            self._events.on_unreachable(message.to)

    def flush(self) -> None:
        """Queued messages leave; later ones need another ``flush``."""
        for stream in self._streams.values():
            stream.flush()

    def gossip(self, news: Gossip) -> None:
        """Send to every other peer, unreliably; gossip is repeated."""
        for (_, purpose), stream in self._streams.items():
            if purpose is Purpose.CONTROL:
                stream.put(news)
                stream.flush()

    def address(self, peer: int) -> PeerAddress | None:
        """The address at which we dial ``peer``, if we do."""
        stream = self._streams.get((peer, Purpose.CONTROL))
        return stream.to if stream is not None else None

    def connected(self, peer: int) -> bool:
        """Whether our control stream to ``peer`` is up."""
        stream = self._streams.get((peer, Purpose.CONTROL))
        return stream is not None and stream.connected

    def failures(self) -> dict[str, str]:
        """Why peers are not connected, by name."""
        return {
            stream.to.name: stream.failure
            for (_, purpose), stream in self._streams.items()
            if purpose is Purpose.CONTROL and not stream.connected
        }

    def calls(self, peer: int) -> bool:
        """Whether ``peer`` has a stream to us."""
        return self._calls[peer] > 0

    async def run(self) -> None:
        """Keep all streams until cancelled."""
        try:
            await self._ended
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def serve(
        self, caller: PeerNamed, purpose: Purpose, reader: asyncio.StreamReader
    ) -> None:
        """Take in a peer's messages until its stream ends."""
        self._welcome(caller)
        try:
            await self._take_in(caller, purpose, reader)
        finally:
            self._calls[caller.peer] -= 1
            if not self._calls[caller.peer]:
                del self._calls[caller.peer]
                if self._guests.pop(caller.peer, None) is not None:
                    self._settle()

    def _welcome(self, caller: PeerNamed) -> None:
        if caller.peer not in self._members and caller.peer not in self._guests:
            if len(self._guests) >= GUESTS_MAX:
                raise PeerError(f"more than {GUESTS_MAX} unknown disks call as peers of this cell")
            self._guests[caller.peer] = (address_of(caller),)
            self._settle()
        self._calls[caller.peer] += 1
        for (peer, _), stream in self._streams.items():
            if peer == caller.peer:
                stream.nudge()

    async def _take_in(
        self, caller: PeerNamed, purpose: Purpose, reader: asyncio.StreamReader
    ) -> None:
        decoder, loop = frames.Decoder(frames.PEER_BYTES_MAX), asyncio.get_running_loop()
        silence_s = SILENCE_MAX_S if purpose is Purpose.CONTROL else None
        async with asyncio.timeout(silence_s) as silence:
            heard_at = loop.time()
            while True:
                some = await frames.read_some(reader, decoder)
                if not self._events.admits(caller):
                    raise PeerError(f"disk {caller.peer} of peer {caller.name} has left the cell")
                for body in some:
                    self._hand_on(caller.peer, body)
                if silence_s is not None and loop.time() - heard_at > SILENCE_STEP_S:
                    heard_at = loop.time()
                    silence.reschedule(heard_at + silence_s)

    def _hand_on(self, source: int, body: bytes) -> None:
        message = ON_A_STREAM.decode(body)
        if isinstance(message, Gossip):
            self._events.on_gossip(source, message)
        else:
            self._take(source, message_from_wire(message.body))

    def _take(self, source: int, message: Message) -> None:
        if message.source != source or message.to != self._own_id:
            raise PeerError(f"peer {source} sent a message from {message.source} to {message.to}")
        if message.kind is MessageKind.SNAPSHOT:
            raise PeerError(f"peer {source} sent a snapshot's message without the snapshot")
        self._events.on_message(message)


def tune(writer: asyncio.StreamWriter) -> None:
    """Let a connection to a host that vanished end in seconds."""
    sock = writer.get_extra_info("socket")
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
