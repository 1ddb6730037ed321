"""Tokens of a cell on loopback, which its leader writes beside the certificates.

Guarantee: whoever can read the key of the clients' certificate there finds a token that holds, from
before the first engine of the cell listens. So a cell on one machine asks for tokens as any other
does, and nobody has to issue one.

A token is written anew when two thirds of its life are over, or when it holds no longer: of a cell
that was here before, or of a key that is retired. One of an admin is not written: the engine, which
runs the code of users, could read it there; on this machine the certificates of peers are admins'.

In a cell of several machines nothing is written: ``dask ha token issue``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

from ha_scheduler.peer.identity.issuing import LIFETIME_S, Issuer
from ha_scheduler.peer.identity.ring_keeper import RingKeeper
from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.protocol.control import Declined, Issued, TokenRequest
from ha_scheduler.security.files import MODE_PRIVATE, write_file
from ha_scheduler.security.identity import TokenRole
from ha_scheduler.security.key_ring import KeyRing
from ha_scheduler.security.token import TokenRefused, read
from ha_scheduler.security.token_source import token_file

ROLES = (TokenRole.CLIENT, TokenRole.WORKER)
SUBJECT = "local"
LOOK_EVERY_S = 60.0

logger = logging.getLogger(__name__)


class LocalTokens:
    """The files of a cell on loopback; of another cell none."""

    def __init__(self, settings: PeerSettings, issuer: Issuer, ring: RingKeeper) -> None:
        self._issuer = issuer
        self._ring = ring
        on_loopback = settings.tls is not None and settings.cell.on_loopback
        self._certificate = settings.tls.cert_file if on_loopback and settings.tls else None

    def missing(self) -> list[TokenRole]:
        """Which tokens nobody can find."""
        return self._with_less_than(0.0)

    async def write(self) -> None:
        """Write those that are missing, or will be. Must be called on the leader."""
        await asyncio.gather(*map(self._write, self._with_less_than(1 / 3)))

    def _with_less_than(self, share: float) -> list[TokenRole]:
        """Whose tokens have less than this share of their life left."""
        ring = self._ring.ring
        if self._certificate is None or ring is None:
            return []
        if not os.access(self._certificate.parent, os.W_OK):
            return []
        return [role for role in ROLES if not self._left(role, ring) > share * LIFETIME_S[role]]

    async def _write(self, role: TokenRole) -> None:
        given = await self._issuer.issue(TokenRequest(SUBJECT, role), by="first start")
        reason = given.reason if isinstance(given, Declined) else ""
        path = self._path(role)
        if isinstance(given, Issued):
            try:
                await asyncio.to_thread(write_file, path, given.text.encode(), MODE_PRIVATE)
            except OSError as error:
                reason = f"{error.strerror}; `dask ha token issue` makes one elsewhere"
        if reason:
            logger.warning(
                "%s was not written: %s", path, reason, extra={"action": "token_not_written"}
            )

    def _left(self, role: TokenRole, ring: KeyRing) -> float:
        """Seconds that the token in the file will hold."""
        now = time.time()
        try:
            identity = read(self._path(role).read_bytes().strip(), ring, now=now)
        except (OSError, TokenRefused):
            return 0.0
        return identity.expires - now if identity.role is role else 0.0

    def _path(self, role: TokenRole) -> Path:
        assert self._certificate is not None
        return token_file(role, self._certificate)
