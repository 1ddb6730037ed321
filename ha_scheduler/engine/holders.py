"""Whose a client is: what of its token or certificate outlives the connection that showed it.

Guarantee: a follower, a rebuilt engine and every later leader know the subject of each client of
the ledger, and its scopes, as the leader that registered it did. A scope that cannot be read here,
of a later release, is one that the client does not have.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from ha_scheduler.ledger.records import SCOPES_BYTES_MAX
from ha_scheduler.security.identity import Identity, Scopes

#: Of a subject of which nothing more is known.
NARROWEST = Scopes(run_on_scheduler=False, plugins=False)


@dataclass(frozen=True, slots=True)
class Holder:
    """``subject``: empty for whoever came on plaintext, who is anybody."""

    subject: str = ""
    scopes: Scopes = field(default_factory=Scopes)


#: Of a client without one, and of Dask's own pseudo-clients.
ANYBODY = Holder()


def holder_of(identity: Identity) -> Holder:
    """Raises ``ValueError`` for scopes that cannot be kept."""
    holder = Holder(identity.subject, identity.scopes)
    if len(encode_scopes(holder.scopes)) > SCOPES_BYTES_MAX:
        raise ValueError(f"the scopes of {identity.subject} are too long to be kept")
    return holder


def encode_scopes(scopes: Scopes) -> bytes:
    """Empty for what narrows nothing."""
    return b"" if scopes == Scopes() else msgspec.msgpack.encode(scopes)


def decode_holder(subject: str, scopes: bytes) -> Holder:
    """What ``ClientJoined`` says."""
    if not scopes:
        return Holder(subject)
    try:
        return Holder(subject, msgspec.msgpack.decode(scopes, type=Scopes))
    except ValueError:
        return Holder(subject, NARROWEST)
