"""Snapshots: the whole ledger from one peer to another that is too far behind for the log.

Guarantee: what the receiver installs is, row for row, one applied state of the sender, under the
``SnapshotMeta`` of exactly that state; or nothing is installed. Every chunk carries a check sum and
the stream its end (``ledger/dump.py``); a stream that breaks off leaves no trace.

Order: the sender opens a view of its store, streams it over a connection of its own (so that it
delays neither appends nor heartbeats), and ends with the core's message, whose meta is the view's.
Only when the receiver has all of it on disk does it give that message to its core; what the core
then says in its ``Ready`` is installed in one transaction, and only then the sender is told.

Chunks wait in a file and not in memory: a ledger may hold gigabytes of graphs.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ha_scheduler.channel.messages import PeerAddress
from ha_scheduler.ledger.dump import SnapshotDamagedError, check_chunk, dump
from ha_scheduler.peer import wire
from ha_scheduler.peer.links import Channel, Dialer, RefusedError
from ha_scheduler.raft.messages import Message, SnapshotMeta
from ha_scheduler.raft.wire import message_from_wire, message_to_wire
from ha_scheduler.storage.port import PeerStore

CHUNK_TIMEOUT_S = 10.0  # without progress: the other side is gone or hopelessly slow
INSTALL_TIMEOUT_S = 120.0  # one large transaction on a slow disk
SPOOL_NAME = "snapshot.incoming"

_LENGTH = struct.Struct(">I")

logger = logging.getLogger(__name__)


class SnapshotSender:
    """Streams to each peer at most one snapshot at a time."""

    def __init__(
        self,
        store: PeerStore,
        peers: Mapping[int, PeerAddress],
        dialer: Dialer,
        report: Callable[[int, bool], None],
    ) -> None:
        self._store = store
        self._peers = peers
        self._dialer = dialer
        self._report = report
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def send(self, message: Message) -> None:
        """Begin to send what the core asked for; the core is told how it ended."""
        if message.to in self._tasks or message.to not in self._peers:
            return
        task = asyncio.create_task(self._run(message))
        self._tasks[message.to] = task
        task.add_done_callback(lambda _: self._tasks.pop(message.to, None))

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, message: Message) -> None:
        to, ok = self._peers[message.to], False
        try:
            ok = await self._stream(message, to)
        except (OSError, EOFError, TimeoutError, wire.WireError, RefusedError) as error:
            logger.warning(
                "sending a snapshot to peer %s broke off: %s",
                to.name,
                error,
                extra={"action": "snapshot_send_failed", "peer": to.name},
            )
        finally:
            self._report(message.to, ok)

    async def _stream(self, message: Message, to: PeerAddress) -> bool:
        reader, writer = await self._dialer.dial(to, Channel.SNAPSHOT)
        try:
            with self._store.view() as view:
                for chunk in dump(view.tables):
                    writer.write(wire.pack(("chunk", chunk)))
                    async with asyncio.timeout(CHUNK_TIMEOUT_S):
                        await writer.drain()
                    await asyncio.sleep(0)
                meta = view.meta
            final = dataclasses.replace(message, snapshot=meta)
            writer.write(wire.pack(("end", message_to_wire(final))))
            async with asyncio.timeout(INSTALL_TIMEOUT_S):
                answer = await wire.read_dict(reader, wire.HELLO_BYTES_MAX)
        finally:
            writer.transport.abort()
        logger.info(
            "sent peer %s a snapshot of everything up to %d",
            to.name,
            meta.index,
            extra={"action": "snapshot_sent", "peer": to.name, "index": meta.index},
        )
        return bool(answer.get("ok"))


class SnapshotReceiver:
    """Takes in one snapshot at a time."""

    def __init__(self, data_dir: Path, own_id: int, step: Callable[[Message], bool]) -> None:
        """``step`` gives the core its message; whether the core now wants it installed."""
        self._spool = data_dir / SPOOL_NAME
        self._own_id = own_id
        self._step = step
        self._busy = False
        self._waiting: tuple[SnapshotMeta, asyncio.Future[None]] | None = None
        self._spool.unlink(missing_ok=True)  # of an earlier run that was killed

    async def serve(
        self, source: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Receive, install, answer."""
        if self._busy:
            writer.write(wire.pack(wire.refusal("another snapshot is coming in")))
            await writer.drain()
            return
        self._busy = True
        try:
            message = await self._receive(reader)
            if message.source != source or message.to != self._own_id or not message.snapshot:
                raise wire.WireError("the snapshot's message is not of this sender, or not to us")
            await self._install(message, message.snapshot)
            writer.write(wire.pack({"ok": True}))
            await writer.drain()
        except SnapshotDamagedError as error:
            raise wire.WireError(str(error)) from error
        finally:
            self._busy, self._waiting = False, None
            self._spool.unlink(missing_ok=True)

    def chunks(self, meta: SnapshotMeta) -> Iterator[bytes]:
        """What was received under ``meta``; read by the store's writer thread."""
        assert self._waiting is not None, "the core installs only what was received"
        assert self._waiting[0] == meta
        return _read_spool(self._spool)

    def installed(self, meta: SnapshotMeta) -> None:
        """The store holds it."""
        waiting = self._waiting
        if waiting is not None and waiting[0] == meta and not waiting[1].done():
            waiting[1].set_result(None)

    async def _receive(self, reader: asyncio.StreamReader) -> Message:
        number = 0
        with self._spool.open("wb") as spool:
            while True:
                async with asyncio.timeout(CHUNK_TIMEOUT_S):
                    kind, body = _pair(await wire.read_frame(reader))
                if kind == "end":
                    spool.flush()
                    return message_from_wire(body)
                check_chunk(body, number)
                _write_chunk(spool, body)
                number += 1

    async def _install(self, message: Message, meta: SnapshotMeta) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting = (meta, done)
        # The core may find that it needs no snapshot; then there is nothing to wait for, and the
        # acknowledgement that it sends to the leader says so.
        if self._step(message):
            async with asyncio.timeout(INSTALL_TIMEOUT_S):
                await done
            logger.info(
                "installed a snapshot of everything up to %d",
                meta.index,
                extra={"action": "snapshot_installed", "index": meta.index},
            )


def _pair(frame: Any) -> tuple[Any, Any]:
    if not isinstance(frame, tuple) or len(frame) != 2:
        raise wire.WireError("a frame of a snapshot is a pair")
    return frame[0], frame[1]


def _write_chunk(spool: BinaryIO, chunk: bytes) -> None:
    spool.write(_LENGTH.pack(len(chunk)))
    spool.write(chunk)


def _read_spool(path: Path) -> Iterator[bytes]:
    with path.open("rb") as spool:
        while header := spool.read(_LENGTH.size):
            (length,) = _LENGTH.unpack(header)
            yield spool.read(length)
