"""A peer port that serves the watch, on a real socket: what a daemon does, by hand."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from ha_scheduler.protocol import frames
from ha_scheduler.protocol.introduction import Introduction, accept, introduced
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.protocol.watch import WatchBeat, WatchView

BEAT_S = 0.2


class WatchPeer:
    """Pushes ``view`` at connect and whenever it is set; beats until told to be silent."""

    def __init__(self, name: str, context: ssl.SSLContext | None = None) -> None:
        self.name = name
        self.port = 0
        self.callers: list[Introduction] = []
        self.silent = False
        self._view: Any = None
        self._context = context
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._conversations: set[asyncio.Task[None]] = set()

    async def start(self) -> WatchPeer:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, ssl=self._context
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def watchers(self) -> int:
        return len(self._writers)

    @property
    def peer(self) -> list[Any]:
        return [self.name, "127.0.0.1", self.port]

    def push(self, view: Any) -> None:
        self._view = view
        for writer in self._writers:
            writer.write(frames.pack(view))

    async def stop(self) -> None:
        """Returns when no connection is left: a callback of the loop would find it closed."""
        if self._server is not None:
            self._server.close()
        for conversation in list(self._conversations):
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.create_task(self._serve(reader, writer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._converse(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX)
        self.callers.append(introduced(said))
        writer.write(frames.pack(accept()))
        self._writers.add(writer)
        if self._view is not None:
            writer.write(frames.pack(self._view))
        while not writer.transport.is_closing():
            if not self.silent:
                writer.write(frames.pack(WatchBeat()))
            await asyncio.sleep(BEAT_S)


def view_of(
    peers: list[WatchPeer], leader: str | None, term: int, dask_ports: list[int] | None = None
) -> WatchView:
    """The message that says so. Without ``dask_ports`` nobody serves."""
    ports = dask_ports or [1] * len(peers)
    address = ""
    if leader is not None and dask_ports:
        index = [peer.name for peer in peers].index(leader)
        address = f"tcp://127.0.0.1:{ports[index]}"
    addresses = [PeerAddress(*p.peer, port) for p, port in zip(peers, ports, strict=True)]
    return WatchView("test", "", term, leader, address, tuple(addresses))
