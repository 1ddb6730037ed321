"""Whether a process can serve with its TLS files, told before it starts."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID, ObjectIdentifier

from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import OperatorError
from ha_scheduler.security.certificate import LOOPBACK, Subject
from ha_scheduler.security.contexts import made
from ha_scheduler.security.files import read_certificates, read_private_key
from ha_scheduler.security.tls import Role

_CHAIN_MAX = 8  # certificates between ours and the CA, as for OpenSSL


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
    owner = _user_of_the_engine(files) if role is Role.ENGINE else None
    key = read_private_key(files.key_file, owner=owner)
    if key.public_key() != certificate.public_key():
        raise OperatorError(
            f"The key {files.key_file} is not the key of the certificate {files.cert_file}; "
            f"name the two files that were issued together."
        )
    authority = _authority(certificate, intermediates, authorities)
    if authority is None:
        raise OperatorError(
            f"The certificate {files.cert_file} was not issued by the authority {files.ca_file}; "
            f"use the CA file and certificates of one `dask-ha-scheduler init`."
        )
    moment = now or datetime.now(UTC)
    _check_validity(str(files.ca_file), authority, moment)
    _check_validity(str(files.cert_file), certificate, moment)
    _check_holder(files, certificate, role, name)
    made(files, ssl.PROTOCOL_TLS_SERVER, owner=owner)  # OpenSSL refuses more: weak keys, odd usages


def role_in_file(path: Path) -> Role | None:
    """The role of the holder of the certificate in ``path``; None: none of a cell's.

    Raises ``OperatorError``.
    """
    try:
        return Role(_attribute(read_certificates(path)[0], NameOID.ORGANIZATIONAL_UNIT_NAME))
    except ValueError:
        return None


def subject_of(path: Path) -> Subject:
    """The holder of the certificate in ``path``, and its hosts. Raises ``OperatorError``."""
    certificate = read_certificates(path)[0]
    role = role_in_file(path)
    if role is None:
        raise OperatorError(
            f"The certificate {path} has no role (OU) of a cell; name one that "
            f"`dask ha cert init` made."
        )
    name = _attribute(certificate, NameOID.COMMON_NAME)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Subject(role, name, LOOPBACK)
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return Subject(role, name, (*names.get_values_for_type(x509.DNSName), *addresses))


def _user_of_the_engine(files: TlsFiles) -> int | None:
    """Who may own an engine's key beside the daemon: with ``--engine-user``, that user."""
    if os.geteuid() != 0 or not files.key_file.exists():
        return None
    return files.key_file.lstat().st_uid


def _authority(
    certificate: x509.Certificate,
    intermediates: list[x509.Certificate],
    authorities: list[x509.Certificate],
) -> x509.Certificate | None:
    """Which of the authorities the certificate is under."""
    current = certificate
    for _ in range(_CHAIN_MAX):
        issuers = [authority for authority in authorities if _issued(current, authority)]
        if issuers:  # a bundle may have an old one beside its successor of the same key
            return max(issuers, key=lambda authority: authority.not_valid_after_utc)
        between = [other for other in intermediates if _issued(current, other)]
        if not between or between[0] == current:
            return None
        current = between[0]
    return None


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
            f"renew it with `dask ha cert renew`."
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
