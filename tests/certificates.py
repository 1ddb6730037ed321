"""Certificates of a cell, and what processes of each role listen and connect with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from distributed import Security

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.security import authority
from ha_scheduler.security.authority import ensure_certificates


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
    """One that the authority in ``directory`` has signed, of a role that there is not, perhaps."""
    files = TlsFiles(
        directory / "ca.pem", directory / f"{role}-x.pem", directory / f"{role}-x-key.pem"
    )
    names = authority._alternative_names(["127.0.0.1"])
    holder: Any = SimpleNamespace(value=role)
    authority._issue(directory, files, holder, "x", names, renew=False)
    return files
