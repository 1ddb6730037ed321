"""The TLS files of a command, when the operator has named all, some or none of them.

In this order: the files named; ``--tls-dir``; ``<data-dir>/tls``; for a cell on loopback a
directory of the user's for this cell, where the first of its peers to start creates them. A named
directory is the only one looked at.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ha_scheduler.cell.peers import Cell
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import OperatorError
from ha_scheduler.security.authority import CA_FILE, client_files, ensure_certificates, peer_files
from ha_scheduler.security.tls import Role, check_files

TLS_DIRECTORY = "tls"  # in a data directory
PROTOCOLS = ("tls", "tcp")


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """The TLS options of the command line."""

    protocol: str = PROTOCOLS[0]
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    directory: Path | None = None
    data_dir: Path | None = None

    def named(self) -> TlsFiles | None:
        """The files of the options for single files, if any. Raises ``OperatorError``."""
        if not (self.ca_file or self.cert_file or self.key_file):
            return None
        if not (self.ca_file and self.cert_file):
            raise OperatorError(
                "--tls-ca-file, --tls-cert and --tls-key belong together; name all of them, or "
                "the directory that `dask-ha-scheduler init` made with --tls-dir."
            )
        # As in `dask scheduler`, a key may stand in the file of its certificate.
        key_file = self.key_file or self.cert_file
        return TlsFiles(self.ca_file.absolute(), self.cert_file.absolute(), key_file.absolute())


@dataclass(frozen=True, slots=True)
class Choice:
    """The files of a peer (None: plaintext), and the directory to create them in, if any."""

    files: TlsFiles | None
    create_in: Path | None = None

    @property
    def needs_authority(self) -> bool:
        """Whether the authority is missing, too."""
        return self.create_in is not None and not _present(self.create_in / CA_FILE)

    def create(self, cell: Cell, name: str) -> list[Path]:
        """Create missing files. Returns the files written. Raises ``OperatorError``."""
        if self.create_in is None or self.files is None:
            return []
        written = ensure_certificates(self.create_in, cell)
        check_files(self.files, role=Role.PEER, name=name)
        return written


def choose_peer_files(options: TlsOptions, cell: Cell, name: str) -> Choice:
    """The checked files of the peer ``name``. Changes nothing. Raises ``OperatorError``."""
    if _plaintext(options, cell):
        return Choice(None)
    files = options.named()
    if files is not None:
        check_files(files, role=Role.PEER, name=name)
        return Choice(files)
    for directory in _directories(options, cell):
        files = peer_files(directory, name)
        found = [_present(path) for path in (files.ca_file, files.cert_file, files.key_file)]
        if all(found) or (any(found) and not cell.on_loopback):
            check_files(files, role=Role.PEER, name=name)
            return Choice(files)
        if any(found):  # after an interrupted first start, or for an added peer
            return Choice(files, create_in=directory)
    if cell.on_loopback:
        directory = options.directory or loopback_directory(cell)
        return Choice(peer_files(directory, name), create_in=directory)
    searched = " and ".join(str(directory) for directory in _directories(options, cell))
    raise OperatorError(
        f"Peer {name} has no certificate in {searched}; run `dask-ha-scheduler init --peers … "
        f"--dir DIR` once, and copy {CA_FILE}, peer-{name}.pem and peer-{name}-key.pem there."
    )


def choose_control_files(options: TlsOptions, cell: Cell) -> TlsFiles | None:
    """Checked files of any certificate of the cell, peers' first. Raises ``OperatorError``."""
    if _plaintext(options, cell):
        return None
    files = options.named()
    if files is None:
        candidates = [
            files
            for directory in _directories(options, cell)
            for files in [
                *(peer_files(directory, name) for name in cell.names),
                client_files(directory),
            ]
            if _present(files.cert_file)
        ]
        files = next((found for found in candidates if _present(found.key_file)), None)
    if files is None:
        raise OperatorError(
            "No certificate to ask the peers with was found; name the directory that "
            "`dask-ha-scheduler init` made with --tls-dir, or the files with --tls-ca-file, "
            "--tls-cert and --tls-key."
        )
    check_files(files)
    return files


def loopback_directory(cell: Cell) -> Path:
    """The directory of certificates that the peers of a cell on loopback share."""
    digest = hashlib.sha256(cell.identity.encode()).hexdigest()[:16]
    return state_directory() / f"cell-{digest}" / TLS_DIRECTORY


def state_directory() -> Path:
    """The default directory of data."""
    if os.geteuid() == 0:
        return Path("/var/lib/dask-ha")
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "dask-ha"


def _present(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        return True  # and the check of the file will say that it cannot be read
    except OSError:
        return False
    return True


def _plaintext(options: TlsOptions, cell: Cell) -> bool:
    if options.protocol == "tls":
        return False
    if not cell.on_loopback:
        raise OperatorError(
            "--protocol tcp is for cells on loopback only, since it would let anyone on the "
            "network run code; leave it out, and run `dask-ha-scheduler init` for certificates."
        )
    if options.named() is not None or options.directory is not None:
        raise OperatorError(
            "--protocol tcp uses no TLS files; leave out --protocol tcp or the TLS options."
        )
    return True


def _directories(options: TlsOptions, cell: Cell) -> list[Path]:
    if options.directory is not None:
        return [options.directory]  # named by the operator: nothing else is meant
    directories = [options.data_dir / TLS_DIRECTORY] if options.data_dir is not None else []
    return [*directories, loopback_directory(cell)] if cell.on_loopback else directories
