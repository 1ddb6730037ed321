"""The two authorities of a cell in a directory, and the pairs that they have issued there.

Guarantees: an authority in a directory is never replaced, however many processes create it at once
and wherever one of them dies; a certificate always matches the key beside it; what an operator has
edited is not overwritten. For that, all is done under one file lock, each file appears whole or not
at all, a key before its certificate, and a new certificate is made for the existing key.

The directory::

    ca.pem                                      both authorities: what everybody trusts
    peers-ca.pem       peers-ca-key.pem         issues peers; its key is kept offline after ``init``
    issuing-ca.pem     issuing-ca-key.pem       issues engines, clients and workers; each daemon has
                                                its key, and no engine
    peer-<name>.pem    peer-<name>-key.pem      one pair for each peer's daemon
    engine-<name>.pem  engine-<name>-key.pem    one for its engine, which never sees the daemon's
    client.pem         client-key.pem           clients and workers
    dask.yaml                                   the Dask configuration of clients and workers
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ha_scheduler.cell.peers import Cell
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import OperatorError
from ha_scheduler.security.certificate import (
    LEAF_LIFETIME,
    LOOPBACK,
    Subject,
    authority_certificate,
    certificate_pem,
    key_pem,
    new_key,
    signed,
)
from ha_scheduler.security.dask_config import DASK_CONFIG_FILE, dask_config, is_edited
from ha_scheduler.security.files import (
    MODE_DIRECTORY,
    MODE_PRIVATE,
    MODE_PUBLIC,
    read_certificates,
    read_private_key,
    write_file,
)
from ha_scheduler.security.tls import Role

CA_FILE = "ca.pem"
CLIENT = "client"  # common name and file name of the certificate of clients and workers
_LOCK_FILE = ".lock"


@dataclass(frozen=True, slots=True)
class Authority:
    """One of the two: the stem of its files, its name, and the roles that it issues."""

    stem: str
    name: str
    roles: tuple[Role, ...]

    @property
    def cert_file(self) -> str:
        return f"{self.stem}.pem"

    @property
    def key_file(self) -> str:
        return f"{self.stem}-key.pem"


PEERS = Authority("peers-ca", "dask-ha-scheduler peers' authority", (Role.PEER,))
ISSUING = Authority("issuing-ca", "dask-ha-scheduler issuing authority", (Role.ENGINE, Role.CLIENT))
AUTHORITIES = (PEERS, ISSUING)


def peer_files(directory: Path, name: str) -> TlsFiles:
    """The files of the peer ``name`` in a directory made by ``init``."""
    return pair_files(directory, f"peer-{name}")


def engine_files(directory: Path, name: str) -> TlsFiles:
    """The files of the engine of peer ``name`` in a directory made by ``init``."""
    return pair_files(directory, f"engine-{name}")


def client_files(directory: Path) -> TlsFiles:
    """The files of clients and workers in a directory made by ``init``."""
    return pair_files(directory, CLIENT)


def issuing_key(files: TlsFiles) -> Path:
    """The key of the issuing authority of the daemon that serves with ``files``."""
    return files.cert_file.parent / ISSUING.key_file


def create_authority(directory: Path, cell: Cell) -> list[Path]:
    """Make both authorities, and pairs for each peer, engine and clients. Returns what is new.

    Raises ``OperatorError``, without a change, if the directory holds authorities already.
    """
    _refuse_existing(directory)
    with locked(directory):
        _refuse_existing(directory)  # another process may have been quicker
        return _create_authorities(directory) + _issue_all(directory, cell, renew=False)


def reissue(directory: Path, cell: Cell) -> list[Path]:
    """New certificates for all peers and clients from the authorities in ``directory``.

    They are for the old keys; peers and engines without a key get one. Returns the files written.
    Raises ``OperatorError``, without a change if it names fewer peers than have certificates.
    """
    missing = [a.key_file for a in AUTHORITIES if not (directory / a.key_file).exists()]
    if missing:
        raise OperatorError(
            f"{directory} holds no {' and no '.join(missing)}; bring back the directory that "
            f"`dask-ha-scheduler init` made, or renew single certificates where an authority is "
            f"with `dask ha cert renew`."
        )
    forgotten = sorted(_peers_in(directory) - set(cell.names))
    if forgotten:
        names = ", ".join(forgotten)
        left = " ".join(f"{directory}/{{peer,engine}}-{name}{{,-key}}.pem" for name in forgotten)
        raise OperatorError(
            f"{directory} has certificates of {names}, which --peers does not name; name all peers "
            f"of the cell, or remove the files of those that have left it: rm {left}"
        )
    with locked(directory):
        return _issue_all(directory, cell, renew=True)


def ensure_certificates(directory: Path, cell: Cell) -> list[Path]:
    """Make the missing files for ``cell``. Idempotent and safe for concurrent processes.

    Returns the files written. Raises ``OperatorError``.
    """
    with locked(directory):
        written = []
        if not (directory / CA_FILE).exists():
            written += _create_authorities(directory)
        return written + _issue_all(directory, cell, renew=False)


def issue(
    directory: Path,
    files: TlsFiles,
    subject: Subject,
    *,
    renew: bool,
    lifetime: timedelta = LEAF_LIFETIME,
) -> list[Path]:
    """A certificate for ``subject`` in ``files``, by the authority in ``directory`` for its role.

    ``renew``: although there is one. The key stays if there is one. Call it in ``locked``. Returns
    the files written. Raises ``OperatorError``.
    """
    if files.cert_file.exists() and files.key_file.exists() and not renew:
        return []
    authority, authority_key = load(directory, authority_of(subject.role))
    written = []
    if not files.key_file.exists():
        written.append(write_file(files.key_file, key_pem(new_key()), MODE_PRIVATE))
    public_key = ec_key(files.key_file).public_key()
    certificate = signed(authority, authority_key, public_key, subject, lifetime)
    written.append(write_file(files.cert_file, certificate_pem(certificate), MODE_PUBLIC))
    return written


def authority_of(role: Role) -> Authority:
    """Which authority issues for ``role``."""
    return next(authority for authority in AUTHORITIES if role in authority.roles)


def load(directory: Path, which: Authority) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """An authority in ``directory`` with its key. Raises ``OperatorError``."""
    certificate = read_certificates(directory / which.cert_file)[0]
    key_file = directory / which.key_file
    if not key_file.exists():
        raise OperatorError(
            f"{key_file} is missing, so no certificate of {' or '.join(which.roles)} can be "
            f"issued here; do it where this authority's key is kept."
        )
    key = ec_key(key_file)
    if key.public_key() != certificate.public_key():
        raise OperatorError(
            f"{key_file} is not the key of {directory / which.cert_file}; "
            f"restore the pair that `dask-ha-scheduler init` created."
        )
    return certificate, key


def ec_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in ``path``, of the kind that is made here. Raises ``OperatorError``."""
    key = read_private_key(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise OperatorError(
            f"{path} was not made by `dask-ha-scheduler init` (it holds no EC key); "
            f"name another directory."
        )
    return key


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Alone with what is in ``directory``, which is made. Raises ``OperatorError``."""
    try:
        directory.mkdir(mode=MODE_DIRECTORY, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(directory / _LOCK_FILE, flags, MODE_PRIVATE)
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


def pair_files(directory: Path, stem: str) -> TlsFiles:
    """The pair whose files begin with ``stem``."""
    directory = directory.absolute()
    return TlsFiles(directory / CA_FILE, directory / f"{stem}.pem", directory / f"{stem}-key.pem")


def _refuse_existing(directory: Path) -> None:
    if (directory / CA_FILE).exists():
        raise OperatorError(
            f"{directory} already holds a certificate authority ({CA_FILE}), which is never "
            f"overwritten; add --reissue to renew its certificates, or name another directory."
        )


def _peers_in(directory: Path) -> set[str]:
    """The names of the peers that have a certificate there."""
    return {
        path.stem.removeprefix("peer-")
        for path in directory.glob("peer-*.pem")
        if not path.stem.endswith("-key")
    }


def _create_authorities(directory: Path) -> list[Path]:
    """Both, each with its key before its certificate; what everybody trusts comes last."""
    written, trusted = [], b""
    for authority in AUTHORITIES:
        key_file, cert_file = directory / authority.key_file, directory / authority.cert_file
        if not key_file.exists():  # else: a crash between key and certificate
            written.append(write_file(key_file, key_pem(new_key()), MODE_PRIVATE))
        if not cert_file.exists():
            made = authority_certificate(authority.name, ec_key(key_file), authority.roles)
            written.append(write_file(cert_file, certificate_pem(made), MODE_PUBLIC))
        trusted += cert_file.read_bytes()
    return [*written, write_file(directory / CA_FILE, trusted, MODE_PUBLIC)]


def _issue_all(directory: Path, cell: Cell, *, renew: bool) -> list[Path]:
    written: list[Path] = []
    for peer in cell.peers:
        hosts = (peer.host, peer.name, *LOOPBACK)
        for files, role in (
            (peer_files(directory, peer.name), Role.PEER),
            (engine_files(directory, peer.name), Role.ENGINE),
        ):
            written += issue(directory, files, Subject(role, peer.name, hosts), renew=renew)
    # Workers listen too, at addresses yet unknown; no end checks names of hosts.
    written += issue(directory, client_files(directory), Subject(Role.CLIENT, CLIENT), renew=renew)
    return written + write_dask_config(directory, cell.client_address)


def write_dask_config(directory: Path, address: str) -> list[Path]:
    """``dask.yaml``; an edited one stays, with the new one beside it as ``dask.yaml.new``."""
    text = dask_config(client_files(directory), address)
    path = directory / DASK_CONFIG_FILE
    present = path.read_text() if path.exists() else None
    if present == text:
        return []
    if present is not None and is_edited(present):
        path = path.with_name(f"{DASK_CONFIG_FILE}.new")
        if path.exists() and path.read_text() == text:
            return []
    return [write_file(path, text.encode(), MODE_PUBLIC)]
