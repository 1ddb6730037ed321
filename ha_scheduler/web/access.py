"""Who asks over HTTP, and whether they may.

Guarantee: each route has a row in ``security/permissions.py``, and what is not for nobody in
particular takes a token, as a bearer or behind the cookie that a login with it has given, of a role
in that row. What has no row is a page of a dashboard, whatever it turns out to be. A token that has
expired or been revoked opens nothing from the next request on, its cookies included. A request that
a browser sends for another site's page (``Origin``) acts on nothing and opens no web socket.

A token in a URL is not looked at: it would be in histories and logs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest

from ha_scheduler.gate.admission import network_of
from ha_scheduler.security import token as tokens
from ha_scheduler.security.identity import ANYBODY_LOCAL, Identity
from ha_scheduler.security.key_ring import KeyRing
from ha_scheduler.security.permissions import PAGE, Operation, Surface, refusal, rows
from ha_scheduler.security.token import TokenRefused
from ha_scheduler.web.attempts import Attempts
from ha_scheduler.web.sessions import Sessions

_NO_RING = "this process was not told the keys of its cell yet; ask again in a moment"


#: The ring of the process as it is now; None: it was not told one yet.
Ring = Callable[[], KeyRing | None]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served. ``retry_s``: seconds after which it may be."""

    status: int
    reason: str
    retry_s: float = 0.0


def operation_of(path: str, *, acts: bool = False) -> Operation:
    """The row of the table for the route at ``path``, which is without the server's prefix.

    ``acts``: by another method than those that look. Where the row is that of all pages, the role
    has to be one that may act at all.
    """
    name = path if len(path) == 1 else path.rstrip("/")
    if name not in _NAMES:
        name = next((row for row, pattern in _PATTERNS if pattern.fullmatch(name)), PAGE)
    if acts and name in (PAGE, _PROXY):
        name = _ACTION
    return Operation(Surface.HTTP, name)


_ACTION = "/api/v1/retire_workers"
_PROXY = r"/proxy/(\d+)/(.*?)/(.*)"
_NAMES = frozenset(row.name for row in rows() if row.surface is Surface.HTTP)
_PATTERNS = [(name, re.compile(name)) for name in _NAMES if "(" in name and name != PAGE]


#: Told of who has shown a token that holds, and why one was refused (then of nobody).
Note = Callable[[Identity | None, str], None]


def nothing(identity: Identity | None, what: str) -> None:
    pass


class Access:
    """Of one server. ``ring`` None: plaintext on loopback, where everybody may."""

    def __init__(
        self,
        ring: Ring | None,
        cookie_name: str,
        note: Note = nothing,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ring = ring
        self.sessions = Sessions(cookie_name, clock)
        self._attempts = Attempts()
        self._note = note
        self._clock = clock

    @property
    def asks(self) -> bool:
        """Whether it asks for a token."""
        return self._ring is not None

    def check(self, request: HTTPServerRequest, path: str) -> Refusal | None:
        """Why this request for ``path`` is not served, or None."""
        acts = request.method not in ("GET", "HEAD", "OPTIONS")
        if (acts or is_websocket(request)) and not is_same_origin(request):
            return Refusal(403, "the page that asks is of another site (Origin)")
        operation = operation_of(path, acts=acts)
        if not self.asks or refusal(None, operation) is None:
            return None
        found = self.identify(request)
        if isinstance(found, Refusal):
            return found
        reason = refusal(found, operation)
        return Refusal(403, reason) if reason else None

    def identify(self, request: HTTPServerRequest) -> Identity | Refusal:
        """Who asks, by a bearer token or a cookie."""
        if not self.asks:
            return ANYBODY_LOCAL
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._verify(token.strip())
        cookie = request.cookies.get(self.sessions.name)
        identity = self.sessions.read(cookie.value) if cookie is not None else None
        ring = self._ring() if self._ring is not None else None
        if identity is None or ring is None or identity.token_id in ring.revoked:
            return Refusal(401, "this takes a token (Authorization: Bearer …), or a login")
        return identity

    def log_in(self, token: str, request: HTTPServerRequest) -> Identity | Refusal:
        """As by a bearer, but who is refused too often waits, with all of its network."""
        network, now = network_of(request.remote_ip or ""), self._clock()
        if wait_s := self._attempts.wait_s(network, now):
            return Refusal(429, "too many tokens from there were refused; wait", wait_s)
        found = self._verify(token.strip())
        if isinstance(found, Refusal):
            self._attempts.failed(network, now)
        if isinstance(found, Identity) and (
            reason := refusal(found, Operation(Surface.HTTP, PAGE))
        ):
            return Refusal(403, reason)
        return found

    def _verify(self, token: str) -> Identity | Refusal:
        ring = self._ring() if self._ring is not None else None
        if ring is None:
            return Refusal(503, _NO_RING, 1.0)
        try:
            identity = tokens.read(token, ring, now=self._clock())
            self._note(identity, "HTTP")
            return identity
        except TokenRefused as error:
            self._note(None, f"HTTP: {error}")
            return Refusal(401, str(error))


def is_websocket(request: HTTPServerRequest) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def is_same_origin(request: HTTPServerRequest) -> bool:
    """Whether no browser sent it for a page of another site; programs send no ``Origin``."""
    origin = request.headers.get("Origin") or request.headers.get("Sec-Websocket-Origin")
    return origin is None or urlsplit(origin).netloc.lower() == (request.host or "").lower()
