"""The holder of a certificate: its role and its name, as the other end of a link has shown them.

Every link is mutual TLS against the cell's own authorities: a stranger is refused in the handshake,
before a byte of his is parsed. Both sides then check the role and the name in the subject.
"""

from __future__ import annotations

import ssl
from enum import StrEnum
from typing import Any

from ha_scheduler.errors import CertificateRefused
from ha_scheduler.protocol.introduction import RefusedError


class Role(StrEnum):
    """The role of the holder of a certificate: its organizational unit (OU)."""

    PEER = "peer"
    ENGINE = "engine"  # a peer's Dask scheduler, which runs the code of users
    CLIENT = "client"  # clients and workers


LEADERS = (Role.ENGINE, Role.PEER)  # who may be taken for a leader


def role_of(ssl_object: ssl.SSLObject | ssl.SSLSocket) -> Role:
    """The role (OU) of the other end of an established link. Raises ``CertificateRefused``."""
    return role_in(ssl_object.getpeercert())


def role_in(certificate: Any) -> Role:
    """The role (OU) in what ``getpeercert`` gave. Raises ``CertificateRefused``."""
    text = _subject_field(certificate, "organizationalUnitName")
    try:
        return Role(text)
    except ValueError:
        raise CertificateRefused(
            f"The other end has a certificate with the role {text!r} (OU), which is none of "
            f"{', '.join(Role)}."
        ) from None


def name_of(ssl_object: ssl.SSLObject | ssl.SSLSocket) -> str:
    """The name (CN) of the other end of an established link. Raises ``CertificateRefused``."""
    return name_in(ssl_object.getpeercert())


def name_in(certificate: Any) -> str:
    """The name (CN) in what ``getpeercert`` gave. Raises ``CertificateRefused``."""
    return _subject_field(certificate, "commonName")


def check_peer(shown: ssl.SSLObject | None, name: str) -> None:
    """Raises ``RefusedError`` for a certificate that is not peer ``name``'s. None: plaintext."""
    if shown is None:
        return
    try:
        role, holder = role_of(shown), name_of(shown)
    except CertificateRefused as error:
        raise RefusedError(str(error)) from error
    if role is not Role.PEER or holder != name:
        raise RefusedError(f"the certificate there is for {role} {holder}, not for peer {name}")


def _subject_field(certificate: Any, field: str) -> str:
    values = [
        value
        for relative_name in (certificate or {}).get("subject", ())
        for key, value in relative_name
        if key == field
    ]
    if len(values) != 1:  # two would be ambiguous
        raise CertificateRefused(
            f"The other end's certificate has {len(values)} fields {field} in its subject, not 1."
        )
    return str(values[0])
