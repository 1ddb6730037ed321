"""Who may be taken for what, by the certificate that it shows.

Guarantee: under TLS only an engine or a peer is taken for a leader, and only the peer of that name
for a watched one. So who has a client's certificate leads nobody, and raises no term, on whatever
port it listens and whomever it calls. Without TLS, which is for loopback, nobody shows anything.
"""

from __future__ import annotations

from typing import Any

from ha_scheduler.comm.preamble import IDENTITY
from ha_scheduler.errors import CertificateRefused
from ha_scheduler.security.identity import ANYBODY_LOCAL, Identity
from ha_scheduler.security.tls import Role, role_in

LEADERS = (Role.ENGINE, Role.PEER)


class NotALeader(OSError):
    """Remote: its certificate is not that of a scheduler of a cell."""


def check_leader(comm: Any) -> None:
    """Raises ``NotALeader`` if the other side of ``comm`` cannot be a leader of a cell."""
    extra = comm.extra_info
    if "peercert" not in extra:
        return
    try:
        role = role_in(extra["peercert"])
    except CertificateRefused as error:
        raise NotALeader(f"{comm.peer_address}: {error}") from error
    if role not in LEADERS:
        raise NotALeader(
            f"{comm.peer_address} has the certificate of a {role}, and is no scheduler of a cell; "
            f"see what listens there, or called from there"
        )


def identity_of(comm: Any) -> Identity:
    """Who has made the connection ``comm``, which this process has accepted."""
    identity: Identity = comm.extra_info.get(IDENTITY, ANYBODY_LOCAL)
    return identity
