"""Conversations at a gate: a task for each caller whose first words have come.

Guarantee: whatever ends a conversation, its place at the gate is given back and its socket closed;
``stop`` accepts nothing more, and ends all of them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ha_scheduler.gate.gate import First, Gate
from ha_scheduler.protocol.codec import ProtocolError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """``over``: call it when the caller is known, and the next may begin."""

    sock: socket.socket
    over: Callable[[], None]

    async def streams(
        self, context: ssl.SSLContext | None, buffer_bytes: int, handshake_s: float
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises ``OSError``."""
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(buffer_bytes)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            self.sock,
            ssl=context,
            ssl_handshake_timeout=handshake_s if context is not None else None,
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class Conversations:
    def __init__(
        self,
        port: str,
        converse: Callable[[Caller], Awaitable[None]],
        counted: Callable[[int], None] = lambda count: None,
    ) -> None:
        """``port``: its name, for the log. ``counted``: told how many there are, at each change."""
        self._port = port
        self._converse = converse
        self._counted = counted
        self._tasks: set[asyncio.Task[None]] = set()
        self._sock: socket.socket | None = None
        self._gate: Gate

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, sock: socket.socket, first: First, backlog: int) -> None:
        """Serve on a bound socket."""
        sock.setblocking(False)
        sock.listen(backlog)
        self._gate, self._sock = Gate(sock, first, self._begin), sock

    async def stop(self) -> None:
        if self._sock is not None:
            self._gate.close()
            self._sock.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, sock: socket.socket, address: object, over: Callable[[], None]) -> None:
        task = asyncio.create_task(self._see_through(Caller(sock, over)))
        self._tasks.add(task)
        self._counted(len(self))
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._counted(len(self))

    async def _see_through(self, caller: Caller) -> None:
        try:
            await self._converse(caller)
        except (OSError, EOFError, TimeoutError, ProtocolError) as error:
            logger.debug("a connection to the %s port ended: %r", self._port, error)
        finally:
            caller.over()
            caller.sock.close()
