"""TLS contexts, the holder of a certificate, and checks of TLS files.

Every link is mutual TLS against the cell's own CA: a stranger is refused in the handshake, before a
byte of his is parsed. Host names are not checked: a VIP moves between hosts, and workers listen at
addresses unknown when their certificate was made. Peers check each other's role and name, in the
subject, after the handshake instead.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID, ObjectIdentifier

from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import CertificateRefused, OperatorError
from ha_scheduler.protocol.introduction import RefusedError
from ha_scheduler.security.files import read_certificates, read_private_key

_CHAIN_MAX = 8  # certificates between ours and the CA, as for OpenSSL


class Role(StrEnum):
    """The role of the holder of a certificate: its organizational unit (OU)."""

    PEER = "peer"
    ENGINE = "engine"  # a peer's Dask scheduler, which runs the code of users
    CLIENT = "client"  # clients and workers


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For listening, with clients of the same CA. Raises ``OperatorError``."""
    return _context(files, ssl.PROTOCOL_TLS_SERVER)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For connecting to servers of the same CA. Raises ``OperatorError``."""
    return _context(files, ssl.PROTOCOL_TLS_CLIENT)


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
    return _subject_field(ssl_object.getpeercert(), "commonName")


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


def check_files(
    files: TlsFiles,
    *,
    role: Role | None = None,
    name: str | None = None,
    now: datetime | None = None,
) -> None:
    """Check that a process can serve with ``files``, as ``role`` and ``name`` if given.

    Raises ``OperatorError`` with the file and the remedy: a missing file, a key of another
    certificate, another CA, an invalid date, another holder.
    """
    authorities = read_certificates(files.ca_file)
    certificate, *intermediates = read_certificates(files.cert_file)
    key = read_private_key(files.key_file)
    if key.public_key() != certificate.public_key():
        raise OperatorError(
            f"The key {files.key_file} is not the key of the certificate {files.cert_file}; "
            f"name the two files that were issued together."
        )
    if not _is_signed(certificate, intermediates, authorities):
        raise OperatorError(
            f"The certificate {files.cert_file} was not issued by the authority {files.ca_file}; "
            f"use the CA file and certificates of one `dask-ha-scheduler init`."
        )
    moment = now or datetime.now(UTC)
    if len(authorities) == 1:  # a bundle may have an old one beside its successor
        _check_validity(str(files.ca_file), authorities[0], moment)
    _check_validity(str(files.cert_file), certificate, moment)
    _check_holder(files, certificate, role, name)
    server_context(files)  # OpenSSL refuses more: weak keys, odd usages


def _context(files: TlsFiles, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=files.ca_file)
        # Without a callback OpenSSL would ask for a password at the terminal, and a daemon hang.
        context.load_cert_chain(files.cert_file, files.key_file, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise OperatorError(
            f"TLS cannot use {files.cert_file}, {files.key_file} and {files.ca_file}: {reason}; "
            f"create them with `dask-ha-scheduler init`."
        ) from error
    return context


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


def _is_signed(
    certificate: x509.Certificate,
    intermediates: list[x509.Certificate],
    authorities: list[x509.Certificate],
) -> bool:
    current = certificate
    for _ in range(_CHAIN_MAX):
        if any(_issued(current, authority) for authority in authorities):
            return True
        issuers = [other for other in intermediates if _issued(current, other)]
        if not issuers or issuers[0] == current:
            return False
        current = issuers[0]
    return False


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_validity(file: str, certificate: x509.Certificate, now: datetime) -> None:
    if now < certificate.not_valid_before_utc:
        raise OperatorError(
            f"The certificate {file} is valid from {certificate.not_valid_before_utc:%F %R} UTC, "
            f"and it is {now:%F %R}; set the clock of this host, or issue it again."
        )
    if now > certificate.not_valid_after_utc:
        raise OperatorError(
            f"The certificate {file} expired on {certificate.not_valid_after_utc:%F %R} UTC; "
            f"renew it with `dask-ha-scheduler init --reissue`."
        )


def _check_holder(
    files: TlsFiles, certificate: x509.Certificate, role: Role | None, name: str | None
) -> None:
    has_role = _attribute(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
    has_name = _attribute(certificate, NameOID.COMMON_NAME)
    if (role is not None and has_role != role) or (name is not None and has_name != name):
        raise OperatorError(
            f"The certificate {files.cert_file} is for {has_role} {has_name} (OU, CN), not for "
            f"{role or has_role} {name or has_name}; name the one that was issued for it."
        )


def _attribute(certificate: x509.Certificate, oid: ObjectIdentifier) -> str:
    values = certificate.subject.get_attributes_for_oid(oid)
    return str(values[0].value) if len(values) == 1 else "(none)"
