"""Tokens of a cell of tests, and the ring that verifies them."""

from __future__ import annotations

import secrets
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ha_scheduler.protocol.ring import Ring
from ha_scheduler.security.identity import TokenRole
from ha_scheduler.security.key_ring import KeyRing, raw
from ha_scheduler.security.token import Claims, issue

CELL = "c" * 32
KEY = Ed25519PrivateKey.generate()


def token(role: str, *, token_id: str = "", lives_s: float = 3600, cell: str = CELL) -> str:
    """One of ``role`` for Alice, which holds for ``lives_s`` seconds from now."""
    now = int(time.time())
    token_id = token_id or secrets.token_hex(16)
    return issue(
        Claims(cell, "alice", TokenRole(role), token_id, now - 3600, int(now + lives_s)), KEY
    )


def ring(*revoked: str) -> KeyRing:
    """That of the cell, with these ids of tokens revoked."""
    keys = (raw(KEY.public_key()),)
    return KeyRing(Ring(CELL, keys=keys, revoked=tuple(map(bytes.fromhex, revoked))))
