"""Enrolment: what a node asks for and what an authority makes of it. Pure but for the key files.

Guarantee: of what a request says only its key counts, and its signature proves that the caller has
it. Role, name and lifetime are the authority's decision; a node becomes a client or worker, never
more.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ha_scheduler.errors import OperatorError
from ha_scheduler.security.authority import ISSUING, load
from ha_scheduler.security.certificate import (
    LOOPBACK,
    Subject,
    certificate_pem,
    fingerprint,
    signed,
)
from ha_scheduler.security.tls import Role

LIFETIME = timedelta(hours=24)  # of what a token was exchanged for; renewed before it ends


class Unfit(ValueError):
    """Remote: this is no request for a certificate of ours."""


def request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request for a certificate of ``key``."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def requested_key(asked: bytes) -> ec.EllipticCurvePublicKey:
    """The key of whom ``asked`` is from. Raises ``Unfit``."""
    try:
        said = x509.load_pem_x509_csr(asked)
        key = said.public_key()
        valid = said.is_signature_valid
    except Exception:  # unsupported algorithms have exception types of their own
        raise Unfit("this is no certificate request in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Unfit("the key of the request is not of the curve P-256")
    if not valid:
        raise Unfit("the request is not signed by its own key")
    return key


def enrol(directory: Path, key: ec.EllipticCurvePublicKey, name: str) -> bytes:
    """The certificate of the client or worker ``name``. Raises ``OperatorError``."""
    authority, authority_key = load(directory, ISSUING)
    subject = Subject(Role.CLIENT, name, LOOPBACK)
    return certificate_pem(signed(authority, authority_key, key, subject, LIFETIME))


def with_fingerprint(authorities: bytes, wanted: str) -> bytes:
    """The one certificate among ``authorities`` of that fingerprint. Raises ``OperatorError``."""
    try:
        found = x509.load_pem_x509_certificates(authorities)
    except ValueError:
        found = []
    for certificate in found:
        if _digits(fingerprint(certificate)) == _digits(wanted):
            return certificate_pem(certificate)
    raise OperatorError(
        f"The peer there has no authority of the fingerprint {wanted}, so it may be anybody; "
        f"compare --ca-fingerprint with `dask ha cert show` (peers-ca.pem), and the address."
    )


def _digits(text: str) -> str:
    return text.lower().removeprefix("sha256:").replace(":", "").strip()
