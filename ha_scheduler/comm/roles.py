"""Who may be taken for what, by the certificate that it shows.

Guarantee: under TLS only an engine or a peer is taken for a leader, and as the one of its name
alone; only the peer of that name for a watched one; and only a client for a worker. So who has a
client's certificate leads nobody, and raises no term, on whatever port it listens and whomever it
calls. Without TLS, which is for loopback, nobody shows anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distributed.comm.core import FatalCommClosedError

from ha_scheduler.comm.callers import IDENTITY
from ha_scheduler.comm.directory import View
from ha_scheduler.errors import CertificateRefused
from ha_scheduler.security.identity import ANYBODY_LOCAL, Identity
from ha_scheduler.security.tls import LEADERS, Role, name_in, role_in


class NotALeader(OSError):
    """Remote: its certificate is not that of a scheduler of a cell."""


class NotOfTheCell(FatalCommClosedError):
    """Remote: its certificate is not that of what is called there."""


def check_leader(comm: Any, name: str | None = None) -> None:
    """Raises ``NotALeader`` if the other side of ``comm`` cannot be a leader of a cell.

    ``name``: the peer that it says it is; None: it has not said so.
    """
    certificate = _shown(comm)
    if certificate is None:
        return
    try:
        role, holder = role_in(certificate), name_in(certificate)
    except CertificateRefused as error:
        raise NotALeader(f"{comm.peer_address}: {error}") from error
    if role not in LEADERS:
        raise NotALeader(
            f"{comm.peer_address} has the certificate of a {role}, and is no scheduler of a cell; "
            f"see what listens there, or called from there"
        )
    if name not in (None, holder):
        raise NotALeader(
            f"{comm.peer_address} has the certificate of {role} {holder}, and says that it is "
            f"{name}; see what listens there, or called from there"
        )


def name_of(view: View) -> str | None:
    """Which peer's a leader says that it is; None: it stands alone, and is no peer's."""
    return view.leader if view.peers else None


def check_worker(comm: Any) -> None:
    """Raises ``NotOfTheCell`` if the other side of ``comm`` is neither a worker nor a nanny."""
    _check_among((Role.CLIENT,), comm)


def check_member(comm: Any) -> None:
    """Raises ``NotOfTheCell`` if the other side of ``comm`` has no role in a cell."""
    _check_among(tuple(Role), comm)


def _check_among(wanted: Sequence[Role], comm: Any) -> None:
    certificate = _shown(comm)
    if certificate is None:
        return
    try:
        role = role_in(certificate)
    except CertificateRefused as error:
        raise NotOfTheCell(f"{comm.peer_address}: {error}") from error
    if role not in wanted:
        raise NotOfTheCell(
            f"{comm.peer_address} has the certificate of a {role}, and what is called there is a "
            f"{' or '.join(wanted)}; see what listens there"
        )


def _shown(comm: Any) -> Any:
    """The certificate of the other side; None without TLS."""
    return comm.extra_info.get("peercert")


def identity_of(comm: Any) -> Identity:
    """Who has made the connection ``comm``, which this process has accepted.

    Without a word of the listener it is whom the certificate names. Raises ``CertificateRefused``.
    """
    identity: Identity | None = comm.extra_info.get(IDENTITY)
    if identity is not None:
        return identity
    certificate = comm.extra_info.get("peercert")
    if certificate is None:
        return ANYBODY_LOCAL
    return Identity(name_in(certificate), role_in(certificate))
