"""Whom a Dask server lets in: the key ring that it judges by, and whom it has let in so far.

Guarantee: under TLS, at a server of a cell, nobody is let in but a peer or an engine, by
certificate, and who shows a token that holds. When a ring says that a token holds no longer, every
connection that was let in with it is cut in that step.

A ring is that of the daemons; a newer one replaces an older. What a server was told by an engine
counts until a daemon has told it of the same cell: an engine runs the code of users. Who does not
know a key asks before it refuses, and remembers no refusal.

An engine that stands alone has no ring and asks for no token: whoever has a certificate of its
authority is let in. A worker that has not joined yet knows neither, and waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ha_scheduler.protocol.ring import Ring
from ha_scheduler.security.authentication import authenticate, by_certificate, holder_of
from ha_scheduler.security.identity import ANYBODY_LOCAL, Identity
from ha_scheduler.security.key_ring import KeyRing
from ha_scheduler.security.tls import Role
from ha_scheduler.security.token import TokenRefused, UnknownKey

RING_S_MAX = 2.0  # to learn of a ring, or of a key; the caller waits

Ask = Callable[[], Awaitable[None]]

logger = logging.getLogger("distributed.ha.comm")

#: In ``Comm.extra_info`` of a connection that was accepted: who calls (``security/identity.py``).
IDENTITY = "identity"
NO_PACKAGE = (
    "This is a cell of dask-ha-scheduler, and the process that calls has not that package, or has "
    "not loaded it, so it shows no token. Install the package there, and set DASK_CONFIG to the "
    "dask.yaml that `dask-ha-scheduler init` wrote; or have the peers run with --certificate-alone."
)


class NotJoined(TokenRefused):
    """Local: whose tokens hold is not known here yet."""


class Callers:
    """Of one server."""

    def __init__(self, server: Any, ask: Ask | None = None, fresh_s: float = float("inf")) -> None:
        """``ask``: learns of the newest ring, as far as somebody answers; None: it is told.

        ``fresh_s``: how old a ring may be; for servers that are told of no change.
        """
        self.ring: KeyRing | None = None
        self.alone = ask is None  # until there is a ring: nobody is asked for a token
        self._server = server
        self._ask = ask
        self._fresh_s = fresh_s
        self._taken_at = 0.0
        self._by_daemon = False
        self._news = asyncio.Event()
        self._learning: asyncio.Task[None] | None = None  # shared by all that wait

    def take(self, ring: Ring, *, by_daemon: bool = True) -> None:
        """A ring was told. Must be called on the server's event loop."""
        self._taken_at = time.monotonic()
        known = self.ring.ring if self.ring is not None else None
        if known is not None and known.cell_id == ring.cell_id:
            doubtful = self._by_daemon and not by_daemon
            if ring.version <= known.version or doubtful:
                return
        self.ring, self._by_daemon = KeyRing(ring), by_daemon
        self._news.set()
        self._cut()

    def stand_alone(self) -> None:
        """The scheduler has no ring: nobody is asked for a token."""
        if self.ring is None:
            self.alone = True
            self._news.set()

    async def identify(self, sock: Any, token: bytes | None) -> Identity:
        """Who has called, by certificate and token.

        Raises ``TokenRefused`` and ``CertificateRefused``.
        """
        holder = holder_of(sock)
        if self._stands_alone():
            return ANYBODY_LOCAL
        if holder.role is not Role.CLIENT:
            return by_certificate(holder)
        if self._is_stale():
            await self._learn()
        if self.ring is None:
            if self.alone:
                return ANYBODY_LOCAL
            raise NotJoined("this process has not joined its cell yet; try again in a moment")
        try:
            return authenticate(holder, token, self.ring, time.time())
        except UnknownKey:
            await self._learn()
        return authenticate(holder, token, self.ring, time.time())

    def identify_without_token(self, sock: Any) -> Identity:
        """Who has called without this package. Raises as ``identify``."""
        holder = holder_of(sock)
        if self._stands_alone():
            return ANYBODY_LOCAL
        alone = self.ring is not None and self.ring.ring.certificate_alone
        if holder.role is Role.CLIENT and not alone:
            raise TokenRefused(NO_PACKAGE)
        return by_certificate(holder)

    def look(self) -> None:
        """Ask for a ring before somebody calls."""
        if self._is_stale():
            self._begin_to_learn()

    def _stands_alone(self) -> bool:
        return self.ring is None and self.alone

    def _is_stale(self) -> bool:
        if self.ring is None:
            return not self.alone
        return time.monotonic() - self._taken_at > self._fresh_s

    async def _learn(self) -> None:
        """Ask for the newest ring, or wait to be told of one."""
        await asyncio.shield(self._begin_to_learn())

    def _begin_to_learn(self) -> asyncio.Task[None]:
        if self._learning is None or self._learning.done():
            self._learning = asyncio.ensure_future(self._ask_or_wait())
        return self._learning

    async def _ask_or_wait(self) -> None:
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RING_S_MAX):
                if self._ask is not None:
                    await self._ask()
                if self._ask is None or (self.ring is None and not self.alone):
                    await self._news.wait()

    def _cut(self) -> None:
        assert self.ring is not None
        for comm in list(self._server._comms):
            identity = comm.extra_info.get(IDENTITY, ANYBODY_LOCAL)
            if identity.token_id in self.ring.revoked:
                logger.warning(
                    "Cut the connection of %s at %s: its token is revoked",
                    identity.subject,
                    comm.peer_address,
                    extra={"action": "connection_cut"},
                )
                comm.abort()
