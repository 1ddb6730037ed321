"""The key ring: which keys sign for a cell, and which tokens hold no longer. Pure.

Guarantee: a ring is a value that follows from the ledger alone, so every process that has applied
as much of the log judges a token alike, also while nobody leads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ha_scheduler.protocol.ring import Ring

_KEY_ID_BYTES = 16


def raw(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes of a public key, as the ledger has it."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_id(public: bytes) -> str:
    """The ``kid`` of a public key: of its bytes, so no two keys share one."""
    return sha256(public).hexdigest()[: 2 * _KEY_ID_BYTES]


@dataclass(frozen=True)
class KeyRing:
    """What it takes to judge a token of the cell."""

    ring: Ring

    @cached_property
    def keys(self) -> Mapping[str, Ed25519PublicKey]:
        """The public keys by their ``kid``."""
        return {key_id(key): Ed25519PublicKey.from_public_bytes(key) for key in self.ring.keys}

    @cached_property
    def revoked(self) -> frozenset[str]:
        """The ids of tokens that hold no longer."""
        return frozenset(token.hex() for token in self.ring.revoked)

    @property
    def cell_id(self) -> str:
        return self.ring.cell_id

    @cached_property
    def audiences(self) -> frozenset[str]:
        """The cells whose tokens hold here: this one, and that whose ledger it was founded from."""
        return frozenset(filter(None, (self.ring.cell_id, self.ring.predecessor)))
