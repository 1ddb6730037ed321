"""Snapshots: the whole ledger, for a peer that is too far behind for the log.

Guarantee: the receiver installs, row for row, one applied state of the sender under exactly its
``SnapshotMeta``, or nothing. Every chunk has a check sum, and the stream an end
(``ledger/dump.py``).

Order: the sender streams a view of its store over a connection of its own, so that it delays
neither appends nor heartbeats, and ends with the core's message, whose meta is the view's. Only
with all of it on disk does the receiver give that message to its core; the core's ``Ready`` then
installs it, whole or not at all, and only then is the sender told.

Chunks are spooled to a file: a ledger may hold gigabytes of graphs.

A broken connection does not end the stream. Each stream has a unique name, in the first frame of
each connection; the receiver answers how many of its chunks it holds, and the sender goes on from
there while its view is open. If either side has lost its part (it was restarted, another sender
came first, time was up), the stream begins anew.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from msgspec import Raw
from msgspec.structs import replace

from ha_scheduler.ledger.dump import END, SnapshotDamagedError, check_chunk, dump
from ha_scheduler.ledger.records import FORMAT
from ha_scheduler.ledger.tables import DUMPED_TABLES, Tables
from ha_scheduler.peer.network.links import Dialer
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import ProtocolError
from ha_scheduler.protocol.introduction import Refused, RefusedError
from ha_scheduler.protocol.peer import (
    OF_A_RECEIVER,
    OF_A_SENDER,
    STREAM_NAME_BYTES,
    PeerAddress,
    Purpose,
    SnapshotChunk,
    SnapshotEnd,
    SnapshotHeld,
    SnapshotInstalled,
    SnapshotOffer,
)
from ha_scheduler.raft.messages import Message, SnapshotMeta
from ha_scheduler.raft.wire import message_from_wire, message_to_wire
from ha_scheduler.storage.directory import INCOMING_FILE as SPOOL_NAME
from ha_scheduler.storage.port import PeerStore

CHUNK_TIMEOUT_S = 10.0  # without progress
INSTALL_TIMEOUT_S = 120.0  # then there is no acknowledgement; the installation completes anyway
RESUME_WITHIN_S = 30.0  # after a break; an open view makes the sender's file grow
RESUME_EVERY_S = 0.25
RESUMES_MAX = 100  # of one stream
SPOOL_KEEP_S = 2 * RESUME_WITHIN_S  # an abandoned spool takes disk space

_LENGTH = struct.Struct(">I")

_BROKEN = (OSError, EOFError, TimeoutError, ssl.SSLError)  # these end a connection, not a stream

logger = logging.getLogger(__name__)


class _NotHeldError(Exception):
    """Remote: the receiver lost its part of this stream; begin another."""


@dataclass(slots=True)
class _Outgoing:
    """A stream in progress, over one connection after another."""

    peer: int
    to: PeerAddress
    tables: Tables
    only: Sequence[str]
    name: bytes
    began: bool = False  # the receiver knows its name
    resumes: int = 0
    broken_since: float = 0.0  # of the loop's clock; 0.0 while it is not


class SnapshotSender:
    """Sends each peer at most one snapshot at a time."""

    def __init__(
        self,
        store: PeerStore,
        address: Callable[[int], PeerAddress | None],
        dialer: Dialer,
        report: Callable[[int, bool], None],
        tables_for: Callable[[int], Sequence[str]] = lambda peer: DUMPED_TABLES,
    ) -> None:
        """``tables_for``: the tables of a peer; a witness keeps few."""
        self._tables_for = tables_for
        self._store = store
        self._address = address
        self._dialer = dialer
        self._report = report
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def send(self, message: Message) -> None:
        """Begin to send a snapshot; the core is told how it ended, and sends that peer nothing
        before.
        """
        if message.to in self._tasks:
            return  # its end will be reported
        to = self._address(message.to)
        if to is None:
            self._report(message.to, False)
            return
        self._tasks[message.to] = asyncio.create_task(self._run(message, to))

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, message: Message, to: PeerAddress) -> None:
        ok = False
        try:
            ok = await self._stream(message, to)
        except (*_BROKEN, ProtocolError, RefusedError, _NotHeldError) as error:
            logger.warning(
                "sending a snapshot to peer %s broke off: %r",
                to.name,
                error,
                extra={"action": "snapshot_send_failed"},
            )
        finally:
            del self._tasks[message.to]  # before the report: the core may send the next at once
            self._report(message.to, ok)

    async def _stream(self, message: Message, to: PeerAddress) -> bool:
        only, name = self._tables_for(message.to), os.urandom(STREAM_NAME_BYTES)
        with self._store.view() as view:
            meta = view.meta
            outgoing = _Outgoing(message.to, to, view.tables, only, name)
            reader, writer = await self._send_chunks(outgoing)
        try:
            final = replace(message, snapshot=meta)
            writer.write(frames.pack(SnapshotEnd(Raw(message_to_wire(final)))))
            answer = await _answer(reader, INSTALL_TIMEOUT_S)
        finally:
            writer.transport.abort()
        logger.info(
            "sent peer %s a snapshot of everything up to %d",
            to.name,
            meta.index,
            extra={"action": "snapshot_sent"},
        )
        return isinstance(answer, SnapshotInstalled)

    async def _send_chunks(
        self, outgoing: _Outgoing
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send all, over as many connections as it takes; returns the last."""
        while True:
            try:
                return await self._send_over_one(outgoing)
            except (*_BROKEN, RefusedError) as error:  # refused: it has not seen the break yet
                if not _may_go_on(outgoing):
                    raise
                logger.info(
                    "the snapshot for peer %s was interrupted and will go on: %r",
                    outgoing.to.name,
                    error,
                    extra={"action": "snapshot_interrupted"},
                )
                await asyncio.sleep(RESUME_EVERY_S)

    async def _send_over_one(
        self, outgoing: _Outgoing
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self._dialer.dial(outgoing.peer, outgoing.to, Purpose.SNAPSHOT)
        try:
            held = await _chunks_held(outgoing, reader, writer)
            # Held chunks are read once more: the stream's end carries a digest of all.
            for number, chunk in enumerate(dump(outgoing.tables, outgoing.only)):
                if number >= held:
                    writer.write(frames.pack(SnapshotChunk(chunk)))
                    async with asyncio.timeout(CHUNK_TIMEOUT_S):
                        await writer.drain()
                await asyncio.sleep(0)
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer


async def _chunks_held(
    outgoing: _Outgoing, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> int:
    """How many chunks of this stream the receiver holds. Raises ``_NotHeldError``."""
    writer.write(frames.pack(SnapshotOffer(outgoing.name, FORMAT, tuple(outgoing.only))))
    answer = await _answer(reader, CHUNK_TIMEOUT_S)
    if not isinstance(answer, SnapshotHeld):
        raise ProtocolError("a peer says that it has installed what it was not sent")
    if outgoing.began and not answer.chunks:
        raise _NotHeldError("it no longer holds what it was sent")
    outgoing.began, outgoing.broken_since = True, 0.0
    return answer.chunks


async def _answer(
    reader: asyncio.StreamReader, within_s: float
) -> SnapshotHeld | SnapshotInstalled:
    """The receiver's answer. Raises ``RefusedError``."""
    async with asyncio.timeout(within_s):
        body = await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX)
    answer = OF_A_RECEIVER.decode(body)
    if isinstance(answer, Refused):
        raise RefusedError(answer.reason)
    return answer


def _may_go_on(outgoing: _Outgoing) -> bool:
    """Whether to retry a stream whose connection broke, or could not be made."""
    now = asyncio.get_running_loop().time()
    outgoing.broken_since = outgoing.broken_since or now
    outgoing.resumes += 1
    in_time = now - outgoing.broken_since < RESUME_WITHIN_S
    return outgoing.began and in_time and outgoing.resumes <= RESUMES_MAX


@dataclass(slots=True)
class _Incoming:
    """The spool's part of one stream, every chunk checked."""

    source: int
    name: bytes
    chunks: int = 0
    size: int = 0  # bytes of the file
    ended: bool = False  # with the last chunk


class SnapshotReceiver:
    """Takes in one snapshot at a time."""

    def __init__(self, data_dir: Path, own_id: int, step: Callable[[Message], bool]) -> None:
        """``step`` steps the message into the core. It returns whether the core installs it."""
        self._spool = data_dir / SPOOL_NAME
        self._own_id = own_id
        self._step = step
        self._busy = False
        self._incoming: _Incoming | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._waiting: tuple[SnapshotMeta, asyncio.Future[None]] | None = None
        self._spool.unlink(missing_ok=True)  # of an earlier run that was killed

    async def serve(
        self, source: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Receive, install, acknowledge."""
        if self._busy:
            writer.write(frames.pack(Refused("another snapshot is coming in")))
            await writer.drain()
            return
        self._busy, interrupted = True, False
        try:
            try:
                message = await self._receive(source, reader, writer)
            except _BROKEN as error:
                # A full disk cannot wait for the rest: our own log is on it.
                interrupted = getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT)
                raise
            if message.source != source or message.to != self._own_id or not message.snapshot:
                raise ProtocolError("the snapshot's message is not of this sender, or not to us")
            logger.info(
                "received a snapshot of everything up to %d",
                message.snapshot.index,
                extra={"action": "snapshot_received"},
            )
            await self._install(message, message.snapshot)
            writer.write(frames.pack(SnapshotInstalled()))
            await writer.drain()
        except SnapshotDamagedError as error:
            raise ProtocolError(str(error)) from error
        finally:
            self._busy, self._waiting = False, None
            if interrupted:
                loop = asyncio.get_running_loop()
                self._expiry = loop.call_later(SPOOL_KEEP_S, self._forget)
            else:
                self._forget()

    def chunks(self, meta: SnapshotMeta) -> Iterator[bytes]:
        """The chunks received under ``meta``, for the store's writer thread."""
        assert self._waiting is not None, "the core installs only what was received"
        assert self._waiting[0] == meta
        # Opened now: the file may be unlinked before the writer reads it.
        return _read_spool(self._spool.open("rb"))

    def installed(self, meta: SnapshotMeta) -> None:
        """The snapshot is durable in the store."""
        waiting = self._waiting
        if waiting is not None and waiting[0] == meta and not waiting[1].done():
            waiting[1].set_result(None)

    async def _receive(
        self, source: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Message:
        incoming = self._begin(source, await _next(reader))
        writer.write(frames.pack(SnapshotHeld(incoming.chunks)))
        with self._spool.open("r+b" if incoming.chunks else "wb") as spool:
            spool.truncate(incoming.size)  # a chunk may have been written in part
            spool.seek(incoming.size)
            while True:
                message = await _next(reader)
                if isinstance(message, SnapshotEnd) and incoming.ended:
                    return message_from_wire(message.body)
                if not isinstance(message, SnapshotChunk) or incoming.ended:
                    raise SnapshotDamagedError("the chunks do not end where the stream does")
                incoming.ended = check_chunk(message.data, incoming.chunks)[0] == END
                incoming.size += _write_chunk(spool, message.data)
                incoming.chunks += 1

    def _begin(self, source: int, offer: SnapshotOffer | SnapshotChunk | SnapshotEnd) -> _Incoming:
        """Go on with what is held of this stream, if anything."""
        if not isinstance(offer, SnapshotOffer):
            raise ProtocolError("a snapshot begins with the name of its stream")
        if offer.format > FORMAT or not set(offer.tables) <= set(DUMPED_TABLES):
            raise RefusedError(
                f"the ledger was written by a newer release (format {offer.format}, and known here "
                f"is {FORMAT}); upgrade the peer that is to receive it"
            )
        if self._expiry is not None:
            self._expiry.cancel()
        held, name = self._incoming, offer.stream
        if held is None or (held.source, held.name) != (source, name) or not self._is_whole(held):
            self._incoming = held = _Incoming(source, name)
        return held

    def _is_whole(self, held: _Incoming) -> bool:
        """Whether the file holds all that was written: a full disk may have lost the end."""
        return self._spool.exists() and self._spool.stat().st_size >= held.size

    def _forget(self) -> None:
        if not self._busy:
            self._incoming = None
            self._spool.unlink(missing_ok=True)

    async def _install(self, message: Message, meta: SnapshotMeta) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting = (meta, done)
        # A core that needs no snapshot acknowledges to the leader; there is nothing to wait for.
        if self._step(message):
            async with asyncio.timeout(INSTALL_TIMEOUT_S):
                await done
            logger.info(
                "installed a snapshot of everything up to %d",
                meta.index,
                extra={"action": "snapshot_installed"},
            )


async def _next(reader: asyncio.StreamReader) -> SnapshotOffer | SnapshotChunk | SnapshotEnd:
    async with asyncio.timeout(CHUNK_TIMEOUT_S):
        body = await frames.read(reader.readexactly, frames.PEER_BYTES_MAX)
    return OF_A_SENDER.decode(body)


def _write_chunk(spool: BinaryIO, chunk: bytes) -> int:
    """The growth of the file in bytes."""
    return spool.write(_LENGTH.pack(len(chunk))) + spool.write(chunk)


def _read_spool(spool: BinaryIO) -> Iterator[bytes]:
    with spool:
        while header := spool.read(_LENGTH.size):
            (length,) = _LENGTH.unpack(header)
            yield spool.read(length)
