"""PEM files: atomic writes, and reads with errors for the operator."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ha_scheduler.errors import OperatorError
from ha_scheduler.security.private import read_private

MODE_PRIVATE = 0o600
MODE_PUBLIC = 0o644
MODE_DIRECTORY = 0o755  # each key guards itself; ca.pem must be readable for other users' clients

_PEM_BYTES_MAX = 1024 * 1024  # larger files are no PEM files


def write_file(path: Path, data: bytes, mode: int) -> Path:
    """Write ``path`` atomically and durably; the mode is set before the first byte."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path


def read_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates in ``path``, at least one. Raises ``OperatorError``."""
    data = _read(path, "certificate")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise OperatorError(
            f"{path} holds no certificate in PEM form; "
            f"name a file that `dask-ha-scheduler init` made."
        ) from None


def read_private_key(path: Path, *, owner: int | None = None) -> PrivateKeyTypes:
    """The private key in ``path``, which is read as ``read_private`` does.

    Raises ``OperatorError``.
    """
    data = read_private(path, "key", owner=owner)
    try:
        return load_pem_private_key(data, password=None)
    except TypeError:
        raise OperatorError(
            f"The key {path} is encrypted with a password, which a daemon cannot ask for; "
            f"store it unencrypted with mode 0600."
        ) from None
    except Exception:  # unsupported algorithms have exception types of their own
        raise OperatorError(
            f"{path} holds no private key in PEM form; "
            f"name the key file that belongs to the certificate."
        ) from None


def _read(path: Path, kind: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_PEM_BYTES_MAX)
    except FileNotFoundError:
        raise OperatorError(
            f"The {kind} file {path} does not exist; "
            f"copy it there, or create it with `dask-ha-scheduler init`."
        ) from None
    except OSError as error:
        raise OperatorError(
            f"The {kind} file {path} cannot be read: {error.strerror}; "
            f"let the user who runs this command read it."
        ) from None
