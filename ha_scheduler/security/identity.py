"""Who the other end of a connection is, and what narrows it.

Guarantee: an identity is made of a verified token or a verified certificate alone, never of what
its holder says beside it. It is a value: who has one has no key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from ha_scheduler.security.tls import Role


class TokenRole(StrEnum):
    """What the holder of a token is."""

    CLIENT = "client"
    WORKER = "worker"  # a worker or a nanny
    ADMIN = "admin"
    OBSERVER = "observer"
    JOIN = "join"  # a node that wants a certificate


@dataclass(frozen=True, slots=True)
class Scopes:
    """What a client may not do although clients may. The default narrows nothing.

    ``priority_max``: the highest priority of its tasks. ``key_prefix``: how the names of its keys
    begin. ``tasks_max``: of its tasks that are not finished. ``bytes_max``: in the ledger.
    """

    run_on_scheduler: bool = True
    plugins: bool = True
    priority_max: int | None = None
    key_prefix: str = ""
    tasks_max: int | None = None
    bytes_max: int | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """The other end of a connection.

    ``subject``: a user or a service; of a certificate its name (CN). ``role``: of a token, or of
    the certificate of a peer or an engine. ``token_id``: empty without a token. ``expires``:
    seconds of the epoch. ``thumbprint``: SHA-256 of its certificate, empty in plaintext.
    """

    subject: str
    role: TokenRole | Role
    scopes: Scopes = field(default_factory=Scopes)
    token_id: str = ""
    expires: float = inf
    thumbprint: bytes = b""


#: Of a plaintext connection, which is on loopback, and of all connections of an engine that stands
#: alone and has no key ring: it may do everything.
ANYBODY_LOCAL = Identity("", TokenRole.ADMIN)
