"""The gate of a listening socket: accepts, and hands on whose turn it is.

Guarantee: nothing is made for a connection (no TLS, no buffer, no task) before its first words are
in the kernel, whole: under TLS the ClientHello, otherwise some bytes. They are looked at there and
not taken. Who is admitted, and when, says ``admission.py``.

When file descriptors run out (``EMFILE``, or the reserve of ``nofile.py`` is reached), silent
connections are let go and the gate pauses: callers wait in the kernel meanwhile. An accept loop
that goes on instead uses a core for nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

from ha_scheduler.gate import nofile
from ha_scheduler.gate.admission import Admission, Limits, network_of

logger = logging.getLogger(__name__)

ACCEPTS_MAX = 64  # in one step of the event loop
HELLO_BYTES_MAX = 16 * 1024  # of a ClientHello: one record of TLS
FIRST_BYTES = 16  # without TLS: any request of HTTP and any introduction is longer
PAUSE_S = 0.25  # after the last descriptor was given
EXPIRE_S = 0.5
WARN_EVERY_S = 60.0

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_HANDSHAKE_RECORD, _HEADER_BYTES = 22, 5  # of TLS

#: Begin with a connection: its socket, the caller's address, and what to call when it is known.
Begin = Callable[[socket.socket, Any, Callable[[], None]], None]


class First(enum.Enum):
    """What a caller of a port says first."""

    TLS = "tls"  # a ClientHello
    BYTES = "bytes"  # anything
    NOTHING = "nothing"  # the server speaks first


class Gate:
    def __init__(
        self, sock: socket.socket, first: First, begin: Begin, limits: Limits | None = None
    ) -> None:
        """``sock`` listens and does not block."""
        self._sock = sock
        self._first = first
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self._admission: Admission[socket.socket] = Admission(limits or Limits())
        self._addresses: dict[socket.socket, Any] = {}
        self._wanted: dict[socket.socket, int] = {}  # bytes of the first words
        self._timer: asyncio.TimerHandle | None = None
        self._warned = -WARN_EVERY_S
        self._open = True
        self._goes_on = False  # in the next step of the event loop
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Accept nothing more, and let go of whoever has not begun."""
        self._open = False
        self._loop.remove_reader(self._sock)
        for connection in list(self._addresses):
            self._drop(connection)
        if self._timer is not None:
            self._timer.cancel()

    # ---- accepting

    def _accept(self) -> None:
        for _ in range(ACCEPTS_MAX):
            if not self._open:
                return
            if self._admission.is_full:
                self._pause("as many callers as may wait do")
                return
            try:
                connection, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._run_short()
                return
            if nofile.is_reserved(connection.fileno()):
                connection.close()
                self._run_short()
                return
            self._arrived(connection, address)
        self._go_on()

    def _arrived(self, connection: socket.socket, address: Any) -> None:
        connection.setblocking(False)
        self._addresses[connection] = address
        network = network_of(str(address[0]))
        for dropped in self._admission.arrive(connection, network, self._loop.time()):
            self._drop(dropped)
        self._expire_later()
        if self._first is First.NOTHING:
            self._ready(connection)
            self._go_on()
            return
        self._want(connection, _HEADER_BYTES if self._first is First.TLS else FIRST_BYTES)
        self._loop.add_reader(connection, self._spoke, connection)

    def _run_short(self) -> None:
        for connection in self._admission.relieve(len(self._admission) // 2 + 1):
            self._drop(connection)
        self._pause("the file descriptors of this process are nearly used up")

    def _pause(self, why: str) -> None:
        self._loop.remove_reader(self._sock)
        self._loop.call_later(PAUSE_S, self._resume)
        if self._loop.time() - self._warned > WARN_EVERY_S:
            self._warned = self._loop.time()
            logger.warning(
                "Callers of %s wait: %s.",
                self._sock.getsockname()[:2],
                why,
                extra={"action": "gate_paused"},
            )

    def _resume(self) -> None:
        if self._open:
            self._loop.add_reader(self._sock, self._accept)

    # ---- the first words

    def _spoke(self, connection: socket.socket) -> None:
        wanted = self._wanted[connection]
        try:
            said = connection.recv(wanted, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            said = b""
        if len(said) < wanted:  # it has hung up
            self._drop(connection)
        elif wanted == _HEADER_BYTES and self._first is First.TLS:
            length = int.from_bytes(said[3:5], "big")
            if said[0] == _HANDSHAKE_RECORD and 0 < length <= HELLO_BYTES_MAX:
                self._want(connection, _HEADER_BYTES + length)
            else:
                self._drop(connection)
        else:
            self._loop.remove_reader(connection)
            self._ready(connection)
            self._go_on()

    def _want(self, connection: socket.socket, count: int) -> None:
        """Hear of the connection when it has so many bytes."""
        self._wanted[connection] = count
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def _ready(self, connection: socket.socket) -> None:
        if self._wanted.pop(connection, None) is not None:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self._admission.speak(connection)

    # ---- their turn

    def _go_on(self) -> None:
        if not self._goes_on:
            self._goes_on = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        """Once in a step of the event loop, whatever has come in it."""
        self._goes_on = False
        if not self._open:
            return
        for connection in self._admission.begin(self._loop.time()):
            address = self._addresses.pop(connection)
            try:
                self._begin(connection, address, self._place_of(connection))
            except Exception:  # the server's; the other connections go on
                logger.exception(
                    "A connection of %s could not begin",
                    address,
                    extra={"action": "connection_not_begun"},
                )
                self._admission.over(connection)
                connection.close()
        if self._admission.has_more:
            self._go_on()

    def _place_of(self, connection: socket.socket) -> Callable[[], None]:
        def over() -> None:
            self._admission.over(connection)
            self._go_on()

        return over

    def _drop(self, connection: socket.socket) -> None:
        self._admission.leave(connection)
        self._addresses.pop(connection, None)
        self._wanted.pop(connection, None)
        self._loop.remove_reader(connection)
        connection.close()

    def _expire_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(EXPIRE_S, self._expire)

    def _expire(self) -> None:
        self._timer = None
        for connection in self._admission.expire(self._loop.time()):
            self._drop(connection)
        self._go_on()
        if not self._admission.is_idle:
            self._expire_later()
