"""A door on loopback to the dashboard of whoever leads, for JupyterLab and browsers here.

Guarantee: it listens on loopback alone, serves nothing outside a path that it draws at random (who
does not know it gets 404, other users of this machine included), speaks TLS to servers that show a
certificate of the cell's authority, and shows them its own token, never what a browser sent of
cookies or credentials. Pages of other sites open no web socket and act on nothing.

JupyterLab's extension and jupyter-server-proxy speak plain HTTP to dashboards, send no token and
know one address; the dashboards of a cell are by TLS, take a token, and change with the leader.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError
from tornado.web import Application
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketClosedError,
    WebSocketHandler,
    websocket_connect,
)

from ha_scheduler.web.access import is_same_origin

BODY_BYTES_MAX = 64 * 1024 * 1024  # bokeh's scripts are some megabytes
REQUEST_S = 60.0
LOOK_AGAIN_S = 1.0  # who leads, at most so often
PING_S = 20.0

#: What a browser may say to a dashboard, and a dashboard to a browser.
_ASKED = ("Accept", "Accept-Language", "Content-Type", "If-None-Match", "If-Modified-Since")
_ANSWERED = ("Content-Type", "Cache-Control", "Etag", "Last-Modified", "Retry-After", "Refresh")

#: The URL of the leader's dashboard, or empty.
Find = Callable[[], Awaitable[str]]


class Leader:
    """The dashboard of the leader as last seen, and how to be let in there."""

    def __init__(
        self, find: Find, token: Callable[[], bytes | None], trust: ssl.SSLContext
    ) -> None:
        self._find = find
        self._token = token
        self.trust = trust
        self._url = ""
        self._looked = 0.0
        self._looking = asyncio.Lock()

    async def url(self, *, anew: bool = False) -> str:
        """``anew``: the one that was known does not answer as a leader's."""
        async with self._looking:
            due = time.monotonic() - self._looked > LOOK_AGAIN_S
            if due and (anew or not self._url):
                self._url = await self._find()
                self._looked = time.monotonic()
        return self._url

    def credentials(self) -> dict[str, str]:
        token = self._token()
        return {"Authorization": f"Bearer {token.decode()}"} if token else {}


class Forward(WebSocketHandler):
    """One page, script or web socket."""

    def initialize(self, leader: Leader) -> None:
        self.leader = leader
        self._other: WebSocketClientConnection | None = None

    def check_origin(self, origin: str) -> bool:
        return is_same_origin(self.request)

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return subprotocols[0] if subprotocols else None  # bokeh's second one is its session

    async def get(self, path: str) -> None:
        if self.request.headers.get("Upgrade", "").lower() == "websocket":
            await super().get(path)
        else:
            await self._answer(path)

    async def post(self, path: str) -> None:
        if is_same_origin(self.request):
            await self._answer(path)
        else:
            self.send_error(403)

    async def _answer(self, path: str) -> None:
        found = await self._ask(path)
        if found is None or found.code in (503, 599):
            found = await self._ask(path, anew=True) or found
        if found is None or found.code == 599:
            self.set_status(503)
            self.set_header("Retry-After", "1")
            self.finish("Nobody leads the cell just now, or its dashboard does not answer.\n")
            return
        self.set_status(found.code)
        for name in _ANSWERED:
            if name in found.headers:
                self.set_header(name, found.headers[name])
        where = found.headers.get("Location", "")
        if where and "://" not in where:
            self.set_header("Location", where.removeprefix("/"))
        self.finish(found.body if found.code != 304 else None)

    async def _ask(self, path: str, *, anew: bool = False) -> HTTPResponse | None:
        url = await self.leader.url(anew=anew)
        if not url:
            return None
        headers = {name: value for name in _ASKED if (value := self.request.headers.get(name))}
        request = HTTPRequest(
            f"{url}/{path}" + (f"?{self.request.query}" if self.request.query else ""),
            method=self.request.method or "GET",
            headers=HTTPHeaders({**headers, **self.leader.credentials()}),
            body=self.request.body if self.request.method == "POST" else None,
            ssl_options=self.leader.trust,
            follow_redirects=False,
            request_timeout=REQUEST_S,
        )
        try:
            return await AsyncHTTPClient().fetch(request, raise_error=False)
        except (OSError, StreamClosedError):  # it is gone
            return None

    # -- a web socket, both ways

    async def open(self, path: str) -> None:
        url = (await self.leader.url()).replace("http", "ws", 1)
        request = HTTPRequest(
            f"{url}/{path}?{self.request.query}",
            headers=HTTPHeaders(self.leader.credentials()),
            ssl_options=self.leader.trust,
        )
        asked = self.request.headers.get("Sec-WebSocket-Protocol", "")
        try:
            self._other = await websocket_connect(
                request,
                subprotocols=[each.strip() for each in asked.split(",") if each.strip()] or None,
                max_message_size=BODY_BYTES_MAX,
                on_message_callback=self._back,
            )
        except Exception:  # of tornado, ssl, sockets: it is not there
            await self.leader.url(anew=True)
            self.close(1012, "the leader changes")

    async def on_message(self, message: str | bytes) -> None:
        with contextlib.suppress(WebSocketClosedError):
            if self._other is not None:
                await self._other.write_message(message, binary=isinstance(message, bytes))

    def _back(self, message: Any) -> None:
        if message is None:
            self.close(1012, "the leader changes")
            return
        with contextlib.suppress(WebSocketClosedError):
            written = self.write_message(message, binary=isinstance(message, bytes))
            written.add_done_callback(lambda done: done.exception())  # the browser has gone

    def on_close(self) -> None:
        if self._other is not None:
            self._other.close()


def door(leader: Leader) -> tuple[Application, str]:
    """The application, and the path that opens it."""
    secret = secrets.token_urlsafe(16)
    AsyncHTTPClient.configure(None, max_body_size=BODY_BYTES_MAX)
    routes = [(rf"/{secret}/(.*)", Forward, {"leader": leader})]
    return Application(routes, websocket_ping_interval=PING_S, log_function=_log_nothing), secret


def _log_nothing(handler: Any) -> None:
    """The path is a secret."""
