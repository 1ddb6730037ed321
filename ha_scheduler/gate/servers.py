"""tornado's servers behind a gate: the ports of Dask and of HTTP.

Guarantee: a connection gets a stream, and TLS a buffer, only when ``gate`` admits it. On a port of
Dask its place is taken until it has been introduced; on one of HTTP until it ends, so there are
about ``HTTP_CONNECTIONS_MAX``, and others wait. Each request has a deadline for its headers and its
body, and a size for both.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.tcpserver import TCPServer

from ha_scheduler.gate.admission import Limits
from ha_scheduler.gate.gate import First, Gate

PLACE = "place"  # of a stream: what to call when its place at the gate is free

HTTP_CONNECTIONS_MAX = 1024  # browsers with dashboards, and who asks for metrics
#: Of each request; a kept-alive connection that is idle for as long is closed.
HTTP_LIMITS = {
    "idle_connection_timeout": 60.0,  # until its headers are here
    "body_timeout": 60.0,
    "max_header_size": 64 * 1024,
    "max_body_size": 16 * 1024 * 1024,
    "max_buffer_size": 64 * 1024 * 1024,  # of what is written, too: a profile is some megabytes
}


class _Gated(TCPServer):
    _first: First = First.BYTES
    _limits = Limits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places: dict[Any, Callable[[], None]] = {}

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        first = First.TLS if self.ssl_options is not None else self._first
        for sock in sockets:
            gate = Gate(sock, first, self._begin, self._limits)
            self._sockets[sock.fileno()] = sock
            self._handlers[sock.fileno()] = gate.close

    def _begin(self, connection: socket.socket, address: Any, over: Callable[[], None]) -> None:
        self._places[address] = over
        try:
            self._handle_connection(connection, address)
        except Exception:
            self._places.pop(address, None)
            raise

    def take_place(self, address: Any) -> Callable[[], None]:
        """What to call when the connection from there is introduced, or over."""
        return self._places.pop(address, _nothing)


class GatedTCPServer(_Gated):
    """Of a port of Dask. Without TLS the server speaks first, and all is on one machine."""

    _first = First.NOTHING


class GatedHTTPServer(_Gated, HTTPServer):
    """Of dashboards, metrics and the HTTP API."""

    _limits = Limits(handshakes=HTTP_CONNECTIONS_MAX, handshake_s=600.0)

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **{**HTTP_LIMITS, **kwargs})
        self._places = {}

    def handle_stream(self, stream: Any, address: Any) -> None:
        setattr(stream, PLACE, self.take_place(address))
        super().handle_stream(stream, address)

    def on_close(self, server_conn: Any) -> None:
        super().on_close(server_conn)
        getattr(server_conn.stream, PLACE, _nothing)()


def _nothing() -> None:
    pass
