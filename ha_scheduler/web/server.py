"""The daemon's server of HTTP: its address, its TLS, its guard.

It serves as the peer port does: by TLS with the peer's certificate, or, where the cell is in
plaintext on loopback, in plaintext on loopback, to everybody.
"""

from __future__ import annotations

import socket

from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.gate import binding
from ha_scheduler.gate.servers import GatedHTTPServer
from ha_scheduler.security.contexts import web_context
from ha_scheduler.web import guard
from ha_scheduler.web.access import Note, Ring, nothing
from ha_scheduler.web.routes import Source, application

BACKLOG = 128


def bind(host: str, port: int) -> socket.socket:
    """As ``gate.binding``, for a loop."""
    sock = binding.bind(host, port, "HTTP port", "name another one with --http-address")
    sock.setblocking(False)
    return sock


class Server:
    def __init__(
        self, sock: socket.socket, files: TlsFiles | None, ring: Ring, note: Note = nothing
    ) -> None:
        """``sock`` is bound. ``files``: the peer's; None: plaintext."""
        self._note = note
        self._sock = sock
        self._files = files
        self._ring = ring
        self._server: GatedHTTPServer | None = None

    def start(self, source: Source) -> None:
        pages = application(source)
        port, secure = self._sock.getsockname()[1], self._files is not None
        context = web_context(self._files) if self._files is not None else None
        ring = self._ring if secure else None
        guard.install(pages, ring, port, secure=secure, note=self._note)
        self._server = GatedHTTPServer(pages, ssl_options=context)
        self._sock.listen(BACKLOG)
        self._server.add_sockets([self._sock])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()
        self._sock.close()
