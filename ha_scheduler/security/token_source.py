"""Where a process finds its token.

In this order: the file that the configuration names; ``client.token`` or ``worker.token`` beside
its certificate; a credential of systemd of that name; last the environment variable
``DASK_HA_TOKEN``, which other processes of the user may read.

The file is read again for each connection, so a renewed one is in force from the next on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ha_scheduler.errors import OperatorError
from ha_scheduler.protocol.introduction import TOKEN_BYTES_MAX

SUFFIX = ".token"
VARIABLE = "DASK_HA_TOKEN"
CREDENTIALS = "CREDENTIALS_DIRECTORY"  # systemd.exec(5)


def find_token(
    kind: str, certificate: str | Path | None = None, named: str | Path | None = None
) -> bytes | None:
    """The token of a process of this ``kind``, if there is one. Raises ``OperatorError``.

    ``certificate``: the file of its own; ``named``: the file that the operator names.
    """
    for path in _files(kind, certificate, named):
        if (token := _read(path)) is not None:
            return token
    if named is not None:
        raise OperatorError(f"The token file {named} does not exist; see docs/tokens.md.")
    return os.environ.get(VARIABLE, "").strip().encode() or None


def token_file(kind: str, certificate: Path) -> Path:
    """The file beside a certificate."""
    return certificate.parent / f"{kind}{SUFFIX}"


def _files(kind: str, certificate: str | Path | None, named: str | Path | None) -> Iterator[Path]:
    if named is not None:
        yield Path(named)
        return
    if certificate is not None:
        yield token_file(kind, Path(certificate))
    if directory := os.environ.get(CREDENTIALS):
        yield Path(directory) / f"{kind}{SUFFIX}"


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            text = file.read(TOKEN_BYTES_MAX + 2)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OperatorError(
            f"The token {path} cannot be read: {error.strerror}; let the user who runs this read "
            f"it, or have a token of your own issued."
        ) from None
    if len(text) > TOKEN_BYTES_MAX + 1:
        raise OperatorError(f"{path} is too long for a token; see docs/tokens.md.")
    return text.strip() or None
