"""The guard of an HTTP server: nothing is served before ``access.py`` allows it.

Guarantee: it is asked for every request, before any handler is found; there is no route beside it.
A web socket is closed within ``LOOK_EVERY_S`` of the end of what opened it (expiry, revocation,
logout). A browser that has not logged in is led to the login page, everything else gets 401.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Callable
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import Application, RequestHandler

from ha_scheduler.web.access import Access, Note, Refusal, Ring, is_websocket, nothing
from ha_scheduler.web.login import Login, Logout, Page, way_to_login

LOOK_EVERY_S = 1.0  # at web sockets, whose only request was their first


class Refused(Page):
    """The answer to a request that is not served."""

    def initialize(self, refusal: Refusal, path: str) -> None:  # type: ignore[override]
        self.refusal = refusal
        self.path = path

    def prepare(self) -> None:
        self.refuse(self.refusal)
        wants_page = "text/html" in self.request.headers.get("Accept", "")
        if self.refusal.status == 401 and wants_page and self.request.method == "GET":
            self.see(way_to_login(self.path, self.request.query), 302)
            return
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{self.refusal.reason}\n")


class Guard:
    """Around ``application``, whose routes have ``prefix``."""

    def __init__(self, application: Application, access: Access, prefix: str = "") -> None:
        self._application = application
        self._access = access
        self._prefix = f"/{prefix.strip('/')}".rstrip("/")
        self._find: Callable[..., Any] = application.find_handler
        self._sockets: dict[Any, HTTPServerRequest] = {}
        self._looking: asyncio.TimerHandle | None = None
        application.find_handler = self._find_handler  # type: ignore[method-assign]

    def _find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        path = request.path.removeprefix(self._prefix) or "/"
        refusal = self._access.check(request, path)
        if refusal is not None:
            return self._serve(request, Refused, refusal=refusal, path=path)
        if self._access.asks:
            page = {"/login": Login, "/logout": Logout}.get(path)
            if page is not None:
                return self._serve(request, page, access=self._access, prefix=self._prefix)
            if is_websocket(request):
                self._watch(request)
        return self._find(request, **kwargs)

    def _serve(self, request: HTTPServerRequest, page: type[RequestHandler], **given: Any) -> Any:
        return self._application.get_handler_delegate(request, page, given)

    def _watch(self, request: HTTPServerRequest) -> None:
        stream = getattr(request.connection, "stream", None)
        if stream is None:
            return
        self._sockets[stream] = request
        if self._looking is None:
            self._look_later()

    def _look_later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        self._looking = None
        for stream, request in list(self._sockets.items()):
            if not stream.closed() and isinstance(self._access.identify(request), Refusal):
                stream.close()
            if stream.closed():
                del self._sockets[stream]
        if self._sockets:
            self._look_later()


def cookie_name(port: int, *, secure: bool) -> str:
    """Of the server at ``port`` of this host: cookies are one host's, whatever the port, and
    behind a proxy they are all those of the proxy.
    """
    where = hashlib.sha256(f"{socket.gethostname()}:{port}".encode()).hexdigest()[:12]
    return f"{'__Host-' if secure else ''}dask-ha-{where}"


def install(
    application: Application,
    ring: Ring | None,
    port: int,
    *,
    secure: bool,
    prefix: str = "",
    note: Note = nothing,
) -> Guard:
    """Guard ``application``, which is served at ``port``, ``secure``: by TLS."""
    return Guard(application, Access(ring, cookie_name(port, secure=secure), note), prefix)
