"""Sessions of browsers: a cookie that this process signed, in place of the token.

Guarantee: a cookie holds no token, says nothing to another process, and ends with the first of:
``SESSION_S``, its token's expiry, a logout at this process, the process.

What is signed is who has logged in, by tornado's signed values (HMAC-SHA256 with a key that this
process drew). Whether the token behind it has been revoked since is for ``access.py`` to ask.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from tornado.web import create_signed_value, decode_signed_value

from ha_scheduler.security.identity import Identity, Scopes, TokenRole

SESSION_S = 12 * 3600.0  # a working day
ENDED_MAX = 10_000  # logouts remembered; beyond it the key is drawn anew, which ends all sessions
COOKIE_BYTES_MAX = 2048  # browsers keep 4 KiB
_DAY_S = 86_400.0


class _Signed(msgspec.Struct, frozen=True, array_like=True):
    session: str
    subject: str
    role: TokenRole
    token_id: str
    expires: float
    scopes: Scopes


class Sessions:
    """Those of one server. ``name``: of its cookie."""

    def __init__(self, name: str, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._ended: OrderedDict[str, float] = OrderedDict()

    def begin(self, identity: Identity) -> tuple[str, float]:
        """The cookie of who has shown a token, and its end in seconds of the epoch."""
        expires = min(identity.expires, self._clock() + SESSION_S)
        signed = _Signed(
            secrets.token_urlsafe(16),
            identity.subject,
            TokenRole(identity.role),
            identity.token_id,
            expires,
            identity.scopes,
        )
        value = msgspec.json.encode(signed)
        cookie = create_signed_value(self._key, self.name, value, clock=self._clock)
        return cookie.decode(), expires

    def read(self, cookie: str) -> Identity | None:
        """Who sent it; None if this is no cookie of ours, or one whose session is over."""
        signed = self._signed(cookie)
        if signed is None or signed.expires <= self._clock() or signed.session in self._ended:
            return None
        return Identity(signed.subject, signed.role, signed.scopes, signed.token_id, signed.expires)

    def end(self, cookie: str) -> None:
        """A logout: the cookie is nobody's from now on, wherever it was copied to."""
        signed = self._signed(cookie)
        if signed is None:
            return
        now = self._clock()
        while self._ended and next(iter(self._ended.values())) <= now:
            self._ended.popitem(last=False)
        self._ended[signed.session] = now + SESSION_S
        if len(self._ended) > ENDED_MAX:
            self._key = secrets.token_bytes(32)
            self._ended.clear()

    def _signed(self, cookie: str) -> _Signed | None:
        if len(cookie) > COOKIE_BYTES_MAX:
            return None
        age = SESSION_S / _DAY_S
        value = decode_signed_value(self._key, self.name, cookie, age, clock=self._clock)
        return msgspec.json.decode(value, type=_Signed) if value is not None else None
