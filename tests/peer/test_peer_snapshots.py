"""Snapshots between a real sender and a real receiver over loopback, with cuts in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from msgspec import Raw

from ha_scheduler.ledger.dump import dump, load
from ha_scheduler.ledger.records import FORMAT, PeerNamed
from ha_scheduler.ledger.tables import DUMPED_TABLES, VALUES
from ha_scheduler.peer.consensus import snapshots
from ha_scheduler.peer.consensus.snapshots import SPOOL_NAME, SnapshotReceiver, SnapshotSender
from ha_scheduler.peer.network.links import Dialer, Security
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import ProtocolError
from ha_scheduler.protocol.introduction import Refused, RefusedError, accept, accepted
from ha_scheduler.protocol.peer import (
    OF_A_RECEIVER,
    STREAM_NAME_BYTES,
    PeerAddress,
    SnapshotChunk,
    SnapshotEnd,
    SnapshotHeld,
    SnapshotOffer,
)
from ha_scheduler.raft.messages import Membership, Message, MessageKind, SnapshotMeta
from ha_scheduler.raft.wire import message_to_wire
from ha_scheduler.storage.port import LedgerView
from tests.deadlines import SCALE
from tests.twins.tables import MemoryTables

ROWS = 40
ROW_BYTES = 200 * 1024
LEDGER_BYTES = ROWS * ROW_BYTES
META = SnapshotMeta(7, 1, Membership((1, 2)))
DEADLINE_S = 20 * SCALE


def ledger(fill: int = 1) -> MemoryTables:
    tables = MemoryTables()
    for row in range(ROWS):
        tables.put(VALUES, row.to_bytes(4, "big"), bytes([fill]) * ROW_BYTES)
    return tables


async def answer(reader: asyncio.StreamReader) -> bytes:
    return await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX)


class Ledger:
    """The part of a store that a sender uses."""

    def __init__(self, tables: MemoryTables) -> None:
        self.tables = tables

    @contextmanager
    def view(self) -> Iterator[LedgerView]:
        yield LedgerView(self.tables, META)


class Receiving:
    """A receiver behind a port that can be told to cut its connection after some bytes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.installed = MemoryTables()
        self.took: list[int] = []  # bytes of each connection
        self.cuts: list[int] = []  # after how many bytes, for the next connections
        self.on_cut: Callable[[], None] = lambda: None
        self.restart()

    def restart(self) -> None:
        """As a new process."""
        self.receiver = SnapshotReceiver(self.directory, 2, self._step)

    @property
    def spool(self) -> Path:
        return self.directory / SPOOL_NAME

    def _step(self, message: Message) -> bool:
        assert message.snapshot is not None
        load(self.receiver.chunks(message.snapshot), self.installed)
        asyncio.get_running_loop().call_soon(self.receiver.installed, message.snapshot)
        return True

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limited = asyncio.StreamReader()
        pump = asyncio.create_task(self._pump(reader, limited, writer))
        try:
            for _ in ("introduction", "hello"):
                await frames.read(limited.readexactly, frames.INTRODUCTION_BYTES_MAX)
                writer.write(frames.pack(accept()))
            with contextlib.suppress(OSError, EOFError, ProtocolError):
                await self.receiver.serve(1, limited, writer)
        except RefusedError as error:
            writer.write(frames.pack(Refused(str(error))))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        finally:
            pump.cancel()
            writer.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        limited: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        number = len(self.took)
        self.took.append(0)
        cut = self.cuts.pop(0) if self.cuts else None
        while data := await reader.read(64 * 1024):
            self.took[number] += len(data)
            limited.feed_data(data)
            if cut is not None and self.took[number] > cut:
                writer.transport.abort()
                self.on_cut()
                break
        limited.feed_eof()


@asynccontextmanager
async def started(directory: Path) -> AsyncIterator[tuple[Receiving, int]]:
    receiving = Receiving(directory)
    server = await asyncio.start_server(receiving.connected, "127.0.0.1", 0)
    async with asyncio.timeout(DEADLINE_S):
        yield receiving, server.sockets[0].getsockname()[1]
    server.close()


@asynccontextmanager
async def greeted(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that has said who it is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for greeting in ("introduction", "hello"):
        writer.write(frames.pack(greeting))
        accepted(await answer(reader))
    yield reader, writer
    writer.close()


async def send(port: int, tables: MemoryTables, only: Sequence[str] = DUMPED_TABLES) -> bool:
    """Send one snapshot; what the core is told about it."""
    reports: asyncio.Queue[bool] = asyncio.Queue()
    own = PeerNamed(1, 1, "a", "127.0.0.1", 1, 2, False, "")
    sender = SnapshotSender(
        Ledger(tables),  # type: ignore[arg-type]
        {2: PeerAddress("b", "127.0.0.1", port, 0)}.get,
        Dialer("cell", own, 600, Security(None, None), lambda: False, str),
        lambda peer, ok: reports.put_nowait(ok),
        lambda peer: only,
    )
    sender.send(Message(MessageKind.SNAPSHOT, to=2, source=1, term=1, snapshot=META))
    try:
        return await reports.get()
    finally:
        await sender.stop()


def rows(tables: MemoryTables) -> list[tuple[bytes, bytes]]:
    return list(tables.scan(VALUES))


async def test_a_snapshot_arrives_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with started(tmp_path) as (receiving, port):
        assert await send(port, ledger())
        assert rows(receiving.installed) == rows(ledger())
        assert not receiving.spool.exists()


@pytest.mark.parametrize(
    ("format_", "tables"),
    [(FORMAT + 1, DUMPED_TABLES), (FORMAT, (*DUMPED_TABLES, "of_a_newer_release"))],
)
async def test_a_ledger_of_a_newer_release_is_refused_before_it_is_sent(
    tmp_path: Path, format_: int, tables: tuple[str, ...]
) -> None:
    async with started(tmp_path) as (receiving, port), greeted(port) as (reader, writer):
        writer.write(frames.pack(SnapshotOffer(b"n" * STREAM_NAME_BYTES, format_, tables)))
        refused = OF_A_RECEIVER.decode(await answer(reader))
        assert isinstance(refused, Refused)
        assert refused.reason.endswith("upgrade the peer that is to receive it")
        assert not receiving.spool.exists()
        assert await send(port, ledger()), "it is as it was"


async def test_a_sender_says_why_it_was_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(tmp_path) as (receiving, port):
        assert not await send(port, ledger(), (*DUMPED_TABLES, "of_a_newer_release"))
        assert "by a newer release" in caplog.text
        assert receiving.took[0] < 1000


async def test_after_a_cut_in_the_middle_only_the_rest_is_sent(tmp_path: Path) -> None:
    async with started(tmp_path) as (receiving, port):
        receiving.cuts = [LEDGER_BYTES // 2, LEDGER_BYTES // 4]
        assert await send(port, ledger())
        assert rows(receiving.installed) == rows(ledger())
        first, second, third = receiving.took
        assert first > LEDGER_BYTES // 2
        assert third < LEDGER_BYTES // 3
        assert first + second + third < LEDGER_BYTES * 1.2, "little was sent twice"


async def test_a_sender_that_was_restarted_begins_anew(tmp_path: Path) -> None:
    async with started(tmp_path) as (receiving, port):
        cut = asyncio.Event()
        receiving.cuts, receiving.on_cut = [LEDGER_BYTES // 2], cut.set
        first = asyncio.create_task(send(port, ledger(1)))
        await cut.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        while not await send(port, ledger(2)):
            """The receiver was not yet done with what came before the cut; the core asks again."""
        assert rows(receiving.installed) == rows(ledger(2)), "nothing of the other stream"
        assert receiving.took[-1] > LEDGER_BYTES


async def test_a_receiver_that_was_restarted_makes_the_sender_give_up_its_stream(
    tmp_path: Path,
) -> None:
    async with started(tmp_path) as (receiving, port):
        receiving.cuts, receiving.on_cut = [LEDGER_BYTES // 2], receiving.restart
        assert not await send(port, ledger()), "the core is told, and asks for another"
        assert await send(port, ledger())
        assert rows(receiving.installed) == rows(ledger())


async def test_a_spool_that_lost_its_end_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "RESUME_EVERY_S", 1.0)
    async with started(tmp_path) as (receiving, port):
        receiving.cuts = [LEDGER_BYTES // 2]
        cut = asyncio.Event()
        receiving.on_cut = cut.set
        sending = asyncio.create_task(send(port, ledger()))
        await cut.wait()
        while receiving.receiver._busy:  # noqa: ASYNC110 - with what came before the cut
            await asyncio.sleep(0.001)
        with receiving.spool.open("r+b") as spool:
            spool.truncate(ROW_BYTES)
        assert not await sending
        assert not rows(receiving.installed)


async def test_a_sender_does_not_hold_its_view_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "RESUME_WITHIN_S", 0.4)
    async with started(tmp_path) as (receiving, port):
        receiving.cuts = [LEDGER_BYTES // 2] + [0] * 1000
        assert not await send(port, ledger())


async def test_what_nobody_goes_on_with_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "RESUME_WITHIN_S", 0.0)
    monkeypatch.setattr(snapshots, "SPOOL_KEEP_S", 0.01)
    async with started(tmp_path) as (receiving, port):
        receiving.cuts = [LEDGER_BYTES // 2]
        assert not await send(port, ledger())
        while receiving.spool.exists():  # noqa: ASYNC110 - the run has a deadline
            await asyncio.sleep(0.01)


async def test_what_is_to_be_installed_can_be_read_after_the_receiver_gave_up_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may be busy with an earlier ledger for longer than that."""
    monkeypatch.setattr(snapshots, "INSTALL_TIMEOUT_S", 0.2)
    async with started(tmp_path) as (receiving, port):
        queued: list[Iterator[bytes]] = []

        def step(message: Message) -> bool:
            assert message.snapshot is not None
            queued.append(receiving.receiver.chunks(message.snapshot))
            return True

        receiving.receiver = SnapshotReceiver(tmp_path, 2, step)
        assert not await send(port, ledger())
        while receiving.spool.exists():  # noqa: ASYNC110 - the run has a deadline
            await asyncio.sleep(0.01)
        load(queued[0], receiving.installed)
        assert rows(receiving.installed) == rows(ledger())


@pytest.mark.parametrize("sent", [0, 1])
async def test_a_stream_that_ends_before_its_chunks_do_is_not_installed(
    tmp_path: Path, sent: int
) -> None:
    async with started(tmp_path) as (receiving, port), greeted(port) as (reader, writer):
        message = Message(MessageKind.SNAPSHOT, to=2, source=1, term=1, snapshot=META)
        writer.write(frames.pack(SnapshotOffer(b"n" * STREAM_NAME_BYTES, FORMAT, DUMPED_TABLES)))
        for chunk in itertools.islice(dump(ledger()), sent):
            writer.write(frames.pack(SnapshotChunk(chunk)))
        writer.write(frames.pack(SnapshotEnd(Raw(message_to_wire(message)))))
        assert OF_A_RECEIVER.decode(await answer(reader)) == SnapshotHeld(0)
        with pytest.raises(asyncio.IncompleteReadError):
            await answer(reader)
        assert not rows(receiving.installed)


async def test_what_has_filled_the_disk_is_deleted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is on the same disk, and cannot wait until the stream goes on."""
    monkeypatch.setattr(snapshots, "RESUME_WITHIN_S", 0.0)
    async with started(tmp_path) as (receiving, port):
        write = snapshots._write_chunk
        took = 0

        def write_some(spool: BinaryIO, chunk: bytes) -> int:
            nonlocal took
            took += len(chunk)
            if took > LEDGER_BYTES // 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(spool, chunk)

        monkeypatch.setattr(snapshots, "_write_chunk", write_some)
        assert not await send(port, ledger())
        assert took > LEDGER_BYTES // 2
        while receiving.receiver._busy:  # noqa: ASYNC110 - the run has a deadline
            await asyncio.sleep(0.01)
        assert not receiving.spool.exists()


@pytest.mark.parametrize("address", [None, PeerAddress("b", "127.0.0.1", 1, 0)])
async def test_a_core_that_asks_again_when_it_is_told_of_a_failure_is_told_again(
    address: PeerAddress | None,
) -> None:
    """Until it is told, it sends that peer nothing."""
    asked = Message(MessageKind.SNAPSHOT, to=2, source=1, term=1, snapshot=META)
    reports: list[bool] = []
    done = asyncio.Event()

    def report(peer: int, ok: bool) -> None:
        reports.append(ok)
        if len(reports) < 3:
            sender.send(asked)
        else:
            done.set()

    own = PeerNamed(1, 1, "a", "127.0.0.1", 1, 2, False, "")
    sender = SnapshotSender(
        Ledger(ledger()),  # type: ignore[arg-type]
        lambda peer: address,
        Dialer("cell", own, 600, Security(None, None), lambda: False, str),
        report,
    )
    sender.send(asked)
    async with asyncio.timeout(DEADLINE_S):
        await done.wait()
    await sender.stop()
    assert reports == [False, False, False]
