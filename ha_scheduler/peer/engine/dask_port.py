"""The Dask port of a peer, open for as long as its daemon lives.

Guarantee: the daemon listens from before its first engine starts to its own end, so nobody else
gets the port, and an engine that is to lead never fails to. Engines inherit the sockets. At any
moment one of the two takes connections: the engine from its activation to its end, otherwise the
daemon. Who calls between the activation and the moment at which the engine serves waits in the
kernel.

The daemon tells who calls that it does not lead, and who does: our processes go there at once; the
others show it as their error. It unpickles nothing. A crowd, as after the death of a leader, must
not keep it from the election: it answers ``ANSWERS_PER_S``, and resets all others, which costs it
nothing; and while nobody serves it resets all of them for ``PATIENCE_S``, in which most leaders are
replaced.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from ha_scheduler.errors import OperatorError
from ha_scheduler.gate.gate import First, Gate
from ha_scheduler.protocol import frames, upstream
from ha_scheduler.protocol.codec import ProtocolError
from ha_scheduler.protocol.introduction import (
    ALPN,
    TIMEOUT_S,
    Refused,
    RefusedError,
    introduced,
)
from ha_scheduler.protocol.watch import WatchView

ANSWERS_PER_S = 50  # each costs some 2 ms
PATIENCE_S = 2.0
TAKEN_S_MAX = 5.0  # the engine of a daemon that was killed may not be gone yet
TAKEN_POLL_S = 0.1
BACKLOG = 4096  # who calls while a leader is elected; the kernel has a limit of its own

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by a reset

logger = logging.getLogger(__name__)


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen at all addresses of ``host`` (empty: of this one). Raises ``OperatorError``."""
    deadline = time.monotonic() + TAKEN_S_MAX
    while True:
        try:
            return _listen_now(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise OperatorError(
                    f"Cannot listen at the Dask port {port} of {host or 'this host'}: "
                    f"{error.strerror}; free it, or give this peer another one in --peers."
                ) from error
        time.sleep(TAKEN_POLL_S)


def _listen_now(host: str, port: int) -> list[socket.socket]:
    with ExitStack() as opened:
        sockets = []
        for family, address in _places(host, port):
            try:
                sock = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(address)
            except OSError as error:
                off = error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
                if off and not host and family == socket.AF_INET6:
                    continue  # a kernel without IPv6
                raise
            sock.listen(BACKLOG)
            sock.setblocking(False)
            sockets.append(sock)
        opened.pop_all()
        return sockets


def _places(host: str, port: int) -> Iterator[tuple[int, tuple[str, int]]]:
    for family, _, _, _, address in socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        yield family, (str(address[0]), port)


class Budget:
    """How many are answered, and not reset: ``per_s``, and as many at once. Pure."""

    def __init__(self, per_s: float) -> None:
        self._per_s = self._left = per_s
        self._at = 0.0

    def take(self, now: float) -> bool:
        self._left = min(self._per_s, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class DaskPort:
    """Turns callers away while no engine of this peer leads."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        context: ssl.SSLContext | None,
        view: Callable[[], WatchView],
        serves: Callable[[], object],
    ) -> None:
        """``context``: None in plaintext on loopback, where callers are reset.

        ``serves``: whether a leader does, which is asked often.
        """
        self._sockets = sockets
        self._context = context
        self._view = view
        self._serves = serves
        self._gates: list[Gate] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._budget = Budget(ANSWERS_PER_S)
        self._unserved: float | None = None  # since when no leader serves
        if context is not None:
            context.set_alpn_protocols([ALPN])

    @property
    def descriptors(self) -> tuple[int, ...]:
        """For engines to inherit."""
        return tuple(sock.fileno() for sock in self._sockets)

    def answer(self) -> None:
        """From now on the daemon takes the connections. Idempotent."""
        if not self._gates:
            first = First.TLS if self._context is not None else First.NOTHING
            self._gates = [Gate(sock, first, self._begin) for sock in self._sockets]

    def leave_to_engine(self) -> None:
        """From now on the engine takes them. Idempotent."""
        for gate in self._gates:
            gate.close()
        self._gates = []

    def tick(self) -> None:
        """Called every tick of the cell."""
        if self._serves():
            self._unserved = None
        elif self._unserved is None:
            self._unserved = time.monotonic()

    async def stop(self) -> None:
        self.leave_to_engine()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sock in self._sockets:
            sock.close()

    # -- a caller

    def _begin(self, sock: socket.socket, address: object, over: Callable[[], None]) -> None:
        self.tick()  # a crowd comes sooner than the next one
        now = time.monotonic()
        early = self._unserved is not None and now - self._unserved < PATIENCE_S
        if self._context is None or early or not self._budget.take(now):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()
            over()
            return
        task = asyncio.create_task(self._turn_away(sock, over))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _turn_away(self, sock: socket.socket, over: Callable[[], None]) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._tell(sock)
        except (OSError, EOFError, TimeoutError, ProtocolError, RefusedError, ValueError) as error:
            logger.debug("a caller of the Dask port left before it was answered: %r", error)
        finally:
            over()
            sock.close()

    async def _tell(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(upstream.REQUEST_BYTES_MAX)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, sock, ssl=self._context, ssl_handshake_timeout=TIMEOUT_S
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            ssl_object = transport.get_extra_info("ssl_object")
            if ssl_object.selected_alpn_protocol() == ALPN:
                await self._tell_ours(reader, writer)
            else:
                await self._tell_others(reader, writer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        finally:
            transport.abort()

    async def _tell_ours(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX)
        try:
            introduced(said)
        except RefusedError as error:  # of another version of the protocol
            writer.write(frames.pack(Refused(str(error))))
            return
        reason, leader = self.reason()
        writer.write(frames.pack(Refused(reason, passing=True, leader=leader)))

    async def _tell_others(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(upstream.handshake())
        await upstream.read(reader.readexactly)
        op = upstream.op_of(await upstream.read(reader.readexactly))
        writer.write(upstream.refusal_of(op, self.reason()[0]))

    def reason(self) -> tuple[str, str]:
        """What a caller is told, and the address of the leader, or empty."""
        view = self._view()
        here = f"peer {view.name} of this cell does not lead"
        if view.address:
            return f"{here}; the leader is {view.leader} at {view.address}", view.address
        since = time.monotonic() - self._unserved if self._unserved is not None else 0.0
        if view.leader:
            return f"{here}; {view.leader} does, and serves nobody yet, since {since:.0f} s", ""
        return f"{here}, and nobody does, as far as it knows, since {since:.0f} s", ""
