"""Certificates as values: of an authority, and of who stands under it.

Guarantee: an authority is named with the roles that it may issue, and its own certificate holds it
to them: a name constraint on the subject, which OpenSSL checks in every handshake. So who has the
key of the issuing authority makes no certificate of a peer that any port would take.

The subject says what a holder may do: OU is the role, CN the name. OU comes first: a constraint is
on the beginning of a subject.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ha_scheduler.security.tls import Role

CA_LIFETIME = timedelta(days=3652)  # ten years: replacing it touches every node at once
LEAF_LIFETIME = timedelta(days=365)  # `dask ha cert renew` renews it
CLOCK_SKEW = timedelta(hours=1)  # for new certificates on a node whose clock is behind

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Subject:
    """The holder of a certificate: its role, its name, and the hosts where it may listen."""

    role: Role
    name: str
    hosts: Sequence[str] = LOOPBACK


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key for whatever has a certificate of this cell."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """``key`` as it is kept in a file."""
    return key.private_bytes(
        encoding=serialization.Encoding.PEM,
        format=serialization.PrivateFormat.PKCS8,
        encryption_algorithm=serialization.NoEncryption(),
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """``certificate`` as it is kept in a file."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def authority_certificate(
    name: str, key: ec.EllipticCurvePrivateKey, roles: Sequence[Role]
) -> x509.Certificate:
    """The self-signed certificate of an authority that issues for ``roles`` alone."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    permitted = [x509.DirectoryName(x509.Name([_role_attribute(role)])) for role in roles]
    until = datetime.now(UTC) + CA_LIFETIME
    return (
        _builder(subject, subject, key.public_key(), until, ca=True)
        # Not critical, against RFC 5280: OpenSSL holds to it in either case, and Go, which knows
        # none of directory names, refuses what is critical and unknown: Prometheus, Kubernetes.
        .add_extension(x509.NameConstraints(permitted, None), critical=False)
        .sign(key, hashes.SHA256())
    )


def signed(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    public_key: ec.EllipticCurvePublicKey,
    subject: Subject,
    lifetime: timedelta = LEAF_LIFETIME,
) -> x509.Certificate:
    """A certificate for the holder of ``public_key``; it ends with its authority at the latest.

    Both ends of a connection are servers and clients of others, so it is for both.
    """
    name = x509.Name(
        [
            _role_attribute(subject.role),
            x509.NameAttribute(NameOID.COMMON_NAME, subject.name),
        ]
    )
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer_key_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    until = min(datetime.now(UTC) + lifetime, authority.not_valid_after_utc)
    return (
        _builder(name, authority.subject, public_key, until, ca=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_alternative_names(subject.hosts), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of ``certificate``, as people compare it: ``sha256:`` and hexadecimal digits."""
    return f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}"


def _role_attribute(role: Role) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role.value)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    until: datetime,
    *,
    ca: bool,
) -> x509.CertificateBuilder:
    """A certificate as far as an authority and its leaves have the same fields."""
    usage = x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - CLOCK_SKEW)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca, path_length=0 if ca else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _alternative_names(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)
