"""Certificates of a cell, and what processes of each role listen and connect with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Security

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.security import authority
from ha_scheduler.security.authority import ensure_certificates
from ha_scheduler.security.certificate import certificate_pem, key_pem, new_key
from ha_scheduler.security.files import write_file

HOUR = timedelta(hours=1)


def issue(directory: Path, *names: str) -> Path:
    """Those of a cell of these peers; returns ``directory``."""
    listed = ",".join(
        f"{name}=127.0.0.1:{8000 + 2 * n}/{8001 + 2 * n}" for n, name in enumerate(names)
    )
    ensure_certificates(directory, parse_peers(listed, any_count=True))
    return directory


def security_of(files: TlsFiles) -> Security:
    """A process of Dask that shows this certificate, whatever it does."""
    ca, cert, key = map(str, (files.ca_file, files.cert_file, files.key_file))
    return Security(
        require_encryption=True,
        tls_ca_file=ca,
        tls_client_cert=cert,
        tls_client_key=key,
        tls_worker_cert=cert,
        tls_worker_key=key,
        tls_scheduler_cert=cert,
        tls_scheduler_key=key,
    )


def certificate_of(directory: Path, role: str) -> TlsFiles:
    """One of a role that there is not, perhaps, by an institution's authority."""
    return odd(directory, f"{role}-x", [("OU", role), ("CN", "x")], institution(directory))


Signer = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def institution(directory: Path) -> Signer:
    """An authority without constraints, which all of ``directory`` trust from then on."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an institution")])
    key = new_key()
    ca = _sign(name, name, key, key, authority=True)
    trusted = directory / authority.CA_FILE
    write_file(trusted, trusted.read_bytes() + certificate_pem(ca), 0o644)
    return ca, key


def odd(
    directory: Path,
    stem: str,
    subject: Sequence[tuple[str, str]],
    by: Signer,
    *,
    valid: tuple[timedelta, timedelta] = (-HOUR, HOUR),
) -> TlsFiles:
    """A pair that our code would not issue; ``valid``: from when to when, from now on."""
    key = new_key()
    oid = {"OU": NameOID.ORGANIZATIONAL_UNIT_NAME, "CN": NameOID.COMMON_NAME}
    name = x509.Name([x509.NameAttribute(oid[field], value) for field, value in subject])
    made = _sign(name, by[0].subject, key, by[1], valid=valid)
    files = TlsFiles(
        directory / authority.CA_FILE, directory / f"{stem}.pem", directory / f"{stem}-key.pem"
    )
    write_file(files.key_file, key_pem(key), 0o600)
    write_file(files.cert_file, certificate_pem(made), 0o644)
    return files


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    authority: bool = False,
    valid: tuple[timedelta, timedelta] = (-HOUR, HOUR),
) -> Any:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + valid[0])
        .not_valid_after(now + valid[1])
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )
