"""From what the other end of a connection shows to who it is.

Guarantee: peers and engines are known by their certificates, everybody else by a token under a
certificate of the cell. Who shows no token is refused where there is a ring; ``by_certificate`` is
for the places that serve the certificate alone, and says no more than that.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from ha_scheduler.security.identity import Identity
from ha_scheduler.security.key_ring import KeyRing
from ha_scheduler.security.tls import Role, name_of, role_of
from ha_scheduler.security.token import read, thumbprint_of


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose certificate it is. ``thumbprint``: SHA-256 of it."""

    role: Role
    name: str
    thumbprint: bytes


def holder_of(shown: ssl.SSLObject | ssl.SSLSocket) -> Holder:
    """The other end of an established link. Raises ``CertificateRefused``."""
    der = shown.getpeercert(binary_form=True)
    return Holder(role_of(shown), name_of(shown), thumbprint_of(der))


def authenticate(holder: Holder, token: bytes | None, ring: KeyRing, now: float) -> Identity:
    """Who calls. ``now``: seconds of the epoch. Raises ``TokenRefused``."""
    if holder.role is not Role.CLIENT:
        return by_certificate(holder)
    return read(token, ring, now=now, thumbprint=holder.thumbprint)


def by_certificate(holder: Holder) -> Identity:
    """What the certificate alone says; that of a client is a worker's, too."""
    return Identity(holder.name, holder.role, thumbprint=holder.thumbprint)
