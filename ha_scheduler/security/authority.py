"""The cell's own certificate authority, and the certificates that it issues.

Guarantees: a CA in a directory is never replaced, however many processes create it at once and
wherever one of them dies; a certificate always matches the key beside it. For that, all is done
under one file lock, each file appears whole or not at all, a key before its certificate, and a new
certificate is made for the existing key.

The directory::

    ca.pem             ca-key.pem               the authority; its key is for issuing only
    peer-<name>.pem    peer-<name>-key.pem      one pair for each peer's daemon
    engine-<name>.pem  engine-<name>-key.pem    one for its engine, which never sees the daemon's
    client.pem         client-key.pem           clients and workers
    dask.yaml                                   the Dask configuration of clients and workers

The subject says what a holder may do: OU is the role, CN the peer's name, that of an engine's peer
too. ``security/tls.py`` checks both when a link is made.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ha_scheduler.cell.peers import Cell
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import OperatorError
from ha_scheduler.security.dask_config import DASK_CONFIG_FILE, dask_config
from ha_scheduler.security.files import (
    MODE_DIRECTORY,
    MODE_PRIVATE,
    MODE_PUBLIC,
    read_certificates,
    read_private_key,
    write_file,
)
from ha_scheduler.security.tls import Role

CA_LIFETIME = timedelta(days=3652)  # ten years: replacing it touches every node at once
LEAF_LIFETIME = timedelta(days=365)  # `dask-ha-scheduler init --reissue` renews it
CLOCK_SKEW = timedelta(hours=1)  # for new certificates on a node whose clock is behind

CA_FILE = "ca.pem"
CA_KEY_FILE = "ca-key.pem"
CLIENT = "client"  # common name and file name of the certificate of clients and workers
_LOCK_FILE = ".lock"


def peer_files(directory: Path, name: str) -> TlsFiles:
    """The files of the peer ``name`` in a directory made by ``init``."""
    return _files(directory, f"peer-{name}")


def engine_files(directory: Path, name: str) -> TlsFiles:
    """The files of the engine of peer ``name`` in a directory made by ``init``."""
    return _files(directory, f"engine-{name}")


def client_files(directory: Path) -> TlsFiles:
    """The files of clients and workers in a directory made by ``init``."""
    return _files(directory, CLIENT)


def holds_authority(directory: Path) -> bool:
    """Whether ``directory`` has a CA with its key."""
    return (directory / CA_FILE).exists() and (directory / CA_KEY_FILE).exists()


def create_authority(directory: Path, cell: Cell) -> list[Path]:
    """Make a CA, and pairs for each peer, each engine and clients. Returns the files written.

    Raises ``OperatorError``, without a change, if the directory holds a CA already.
    """
    _refuse_existing(directory)
    with _locked(directory):
        _refuse_existing(directory)  # another process may have been quicker
        return _create_authority(directory) + _issue_all(directory, cell, renew=False)


def reissue(directory: Path, cell: Cell) -> list[Path]:
    """New certificates for all peers and clients from the CA in ``directory``, for their old keys.

    Peers and engines without a key get one. Returns the files written. Raises ``OperatorError``.
    """
    if not holds_authority(directory):
        raise OperatorError(
            f"{directory} holds no certificate authority with its key ({CA_FILE} and "
            f"{CA_KEY_FILE}); name the directory in which `dask-ha-scheduler init` created it."
        )
    with _locked(directory):
        return _issue_all(directory, cell, renew=True)


def ensure_certificates(directory: Path, cell: Cell) -> list[Path]:
    """Make the missing files for ``cell``. Idempotent and safe for concurrent processes.

    Returns the files written. Raises ``OperatorError``.
    """
    with _locked(directory):
        written = []
        if not (directory / CA_FILE).exists():
            written += _create_authority(directory)
        return written + _issue_all(directory, cell, renew=False)


def _files(directory: Path, stem: str) -> TlsFiles:
    directory = directory.absolute()
    return TlsFiles(directory / CA_FILE, directory / f"{stem}.pem", directory / f"{stem}-key.pem")


def _refuse_existing(directory: Path) -> None:
    if (directory / CA_FILE).exists():
        raise OperatorError(
            f"{directory} already holds a certificate authority ({CA_FILE}), which is never "
            f"overwritten; add --reissue to renew its certificates, or name another directory."
        )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(mode=MODE_DIRECTORY, parents=True, exist_ok=True)
        descriptor = os.open(directory / _LOCK_FILE, os.O_RDWR | os.O_CREAT, MODE_PRIVATE)
    except OSError as error:
        raise OperatorError(
            f"Certificates cannot be made in {directory}: {error.strerror}; "
            f"name a directory that this user can write to."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # held by the open file: a death releases it
        yield
    except OSError as error:
        raise OperatorError(
            f"Certificates cannot be made in {directory}: {error.strerror}; "
            f"see to its space and permissions."
        ) from error
    finally:
        os.close(descriptor)


def _create_authority(directory: Path) -> list[Path]:
    key_file = directory / CA_KEY_FILE
    written = []
    if not key_file.exists():  # else: a crash between key and certificate
        written.append(_write_key(key_file))
    key = _ec_key(key_file)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dask-ha-scheduler CA")])
    until = datetime.now(UTC) + CA_LIFETIME
    certificate = _builder(name, name, key.public_key(), until, ca=True).sign(key, hashes.SHA256())
    return [*written, _write_certificate(directory / CA_FILE, certificate)]


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


def _issue_all(directory: Path, cell: Cell, *, renew: bool) -> list[Path]:
    written: list[Path] = []
    for peer in cell.peers:
        names = _alternative_names([peer.host, peer.name, "localhost", "127.0.0.1", "::1"])
        for files, role in (
            (peer_files(directory, peer.name), Role.PEER),
            (engine_files(directory, peer.name), Role.ENGINE),
        ):
            written += _issue(directory, files, role, peer.name, names, renew)
    # Workers listen too, at addresses yet unknown; no end checks names of hosts.
    names = _alternative_names(["localhost", "127.0.0.1", "::1"])
    written += _issue(directory, client_files(directory), Role.CLIENT, CLIENT, names, renew)
    config = dask_config(client_files(directory), cell.client_address).encode()
    config_file = directory / DASK_CONFIG_FILE
    if not config_file.exists() or config_file.read_bytes() != config:
        written.append(write_file(config_file, config, MODE_PUBLIC))
    return written


def _issue(
    directory: Path,
    files: TlsFiles,
    role: Role,
    common_name: str,
    names: x509.SubjectAlternativeName,
    renew: bool,
) -> list[Path]:
    if files.cert_file.exists() and files.key_file.exists() and not renew:
        return []
    authority = read_certificates(directory / CA_FILE)[0]
    authority_key = _authority_key(directory, authority)
    written = []
    if not files.key_file.exists():
        written.append(_write_key(files.key_file))
    public_key = _ec_key(files.key_file).public_key()
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role.value),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer_key_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    until = min(datetime.now(UTC) + LEAF_LIFETIME, authority.not_valid_after_utc)
    certificate = (
        _builder(subject, authority.subject, public_key, until, ca=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(names, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    return [*written, _write_certificate(files.cert_file, certificate)]


def _authority_key(directory: Path, authority: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    key_file = directory / CA_KEY_FILE
    if not key_file.exists():
        raise OperatorError(
            f"{key_file} is missing, so no certificate can be issued; "
            f"run `dask-ha-scheduler init --reissue` where the authority was created."
        )
    key = _ec_key(key_file)
    if key.public_key() != authority.public_key():
        raise OperatorError(
            f"{key_file} is not the key of {directory / CA_FILE}; "
            f"restore the pair that `dask-ha-scheduler init` created."
        )
    return key


def _ec_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = read_private_key(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise OperatorError(
            f"{path} was not made by `dask-ha-scheduler init` (it holds no EC key); "
            f"name another directory."
        )
    return key


def _alternative_names(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _write_key(path: Path) -> Path:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        encoding=serialization.Encoding.PEM,
        format=serialization.PrivateFormat.PKCS8,
        encryption_algorithm=serialization.NoEncryption(),
    )
    return write_file(path, pem, MODE_PRIVATE)


def _write_certificate(path: Path, certificate: x509.Certificate) -> Path:
    return write_file(path, certificate.public_bytes(serialization.Encoding.PEM), MODE_PUBLIC)
