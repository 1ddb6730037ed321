"""The TLS files of a command, when the operator has named all, some or none of them.

In this order: the files named; ``--tls-dir``; ``<data-dir>/tls``; for a cell on loopback a
directory of the user's for this cell, where the first of its peers to start creates them. A named
directory is the only one looked at. The pair of a peer's engine is beside that of the peer.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from ha_scheduler.cell.peers import Cell
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import OperatorError
from ha_scheduler.security.authority import (
    CA_FILE,
    client_files,
    engine_files,
    ensure_certificates,
    peer_files,
)
from ha_scheduler.security.checks import check_files
from ha_scheduler.security.tls import Role

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
    """The files of a peer and its engine (None: plaintext), and where to create them, if at all."""

    files: TlsFiles | None
    engine: TlsFiles | None = None
    create_in: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """All files of the choice."""
        pairs = [files for files in (self.files, self.engine) if files is not None]
        found = [path for p in pairs for path in (p.ca_file, p.cert_file, p.key_file)]
        return list(dict.fromkeys(found))

    @property
    def needs_authority(self) -> bool:
        """Whether the authority is missing, too."""
        return self.create_in is not None and not _present(self.create_in / CA_FILE)

    def create(self, cell: Cell, name: str) -> list[Path]:
        """Create missing files. Returns the files written. Raises ``OperatorError``."""
        if self.create_in is None:
            return []
        written = ensure_certificates(self.create_in, cell)
        self.check(name)
        return written

    def check(self, name: str) -> Choice:
        """This choice, if its files are those of peer ``name``. Raises ``OperatorError``."""
        if self.files is not None:
            check_files(self.files, role=Role.PEER, name=name)
        if self.engine is not None:
            check_files(self.engine, role=Role.ENGINE, name=name)
        return self


def choose_peer_files(
    options: TlsOptions, cell: Cell, name: str, *, witness: bool = False
) -> Choice:
    """The checked files of the peer ``name``. Changes nothing. Raises ``OperatorError``.

    ``witness``: it has no engine.
    """
    if _plaintext(options, cell):
        return Choice(None)
    files = options.named()
    if files is not None:
        beside = engine_files(files.cert_file.parent, name)
        engine = TlsFiles(files.ca_file, beside.cert_file, beside.key_file)
        return Choice(files, None if witness else engine).check(name)
    for directory in _directories(options, cell):
        choice = _in_directory(directory, name, witness=witness)
        found = [_present(path) for path in choice.paths]
        if all(found) or (any(found) and not cell.on_loopback):
            return choice.check(name)
        if any(found):  # after an interrupted first start, or for an added peer
            return replace(choice, create_in=directory)
    if cell.on_loopback:
        directory = options.directory or loopback_directory(cell)
        return replace(_in_directory(directory, name, witness=witness), create_in=directory)
    searched = " and ".join(str(directory) for directory in _directories(options, cell))
    missing = ", ".join(path.name for path in _in_directory(Path(), name, witness=witness).paths)
    raise OperatorError(
        f"Peer {name} has no certificate in {searched}; run `dask-ha-scheduler init --peers … "
        f"--dir DIR` once, and copy there: {missing}."
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


def _in_directory(directory: Path, name: str, *, witness: bool) -> Choice:
    engine = None if witness else engine_files(directory, name)
    return Choice(peer_files(directory, name), engine)


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
