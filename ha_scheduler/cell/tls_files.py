"""The paths of a process's TLS files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the authority all peers trust, and the certificate and key of this process."""

    ca_file: Path
    cert_file: Path
    key_file: Path
