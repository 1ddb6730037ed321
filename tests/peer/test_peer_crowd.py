"""A crowd of watchers costs a daemon little, and when it has gone, nothing."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import psutil

from ha_scheduler.protocol import frames
from ha_scheduler.protocol.introduction import Kind, introduce
from ha_scheduler.security.authority import client_files
from ha_scheduler.security.contexts import client_context
from tests.peer.toy_cell import ToyCell, report, within

CROWD = 400
AT_ONCE = 16  # handshakes; the gate lets more begin, and then each takes longer
BYTES_EACH_MAX = 64 * 1024
BYTES_EACH_BACK = 16 * 1024  # of 48 KiB; the first crowd makes a process larger for good, by 10 MB

Watcher = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def watch(port: int, context: ssl.SSLContext, turn: asyncio.Semaphore) -> Watcher:
    async with turn:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(frames.pack(introduce(Kind.WATCH)))
        await reader.readexactly(1)
        return reader, writer


async def crowd(port: int, context: ssl.SSLContext) -> list[Watcher]:
    turn = asyncio.Semaphore(AT_ONCE)
    return await asyncio.gather(*(watch(port, context, turn) for _ in range(CROWD)))


async def test_what_a_crowd_of_watchers_cost_is_returned_when_it_has_gone(tmp_path: Path) -> None:
    with ToyCell(tmp_path, names="a") as cell:
        await asyncio.to_thread(within, 10, lambda: cell.status("a"))
        context = client_context(client_files(tmp_path / "certs"))
        daemon = psutil.Process(cell.daemons["a"].pid)
        quiet = daemon.memory_info().rss
        held = await crowd(cell.ports["a"], context)
        with_crowd = daemon.memory_info().rss
        for _, writer in held:
            writer.transport.abort()
        assert with_crowd - quiet < CROWD * BYTES_EACH_MAX
        gone = with_crowd - CROWD * BYTES_EACH_BACK
        await asyncio.to_thread(within, 10, lambda: daemon.memory_info().rss <= gone, 0.05)
        sizes = f"{quiet >> 20} MB, {with_crowd >> 20} MB, {daemon.memory_info().rss >> 20} MB"
        report(f"before, with {CROWD} watchers, afterwards: {sizes}")
