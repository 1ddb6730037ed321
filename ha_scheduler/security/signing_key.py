"""The key with which a daemon signs tokens: its own, and never anywhere but in its data directory.

Guarantee: the file is there as a whole, and of mode 0600, before anything is signed with it. The
engine cannot read it: the data directory is hidden from that (``docs/security.md``).
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from ha_scheduler.errors import OperatorError
from ha_scheduler.security.files import MODE_PRIVATE, read_private_key, write_file

KEY_FILE = "token-key.pem"


def load_or_make(directory: Path) -> Ed25519PrivateKey:
    """The key of the peer with this data directory. Raises ``OperatorError`` and ``OSError``."""
    path = directory / KEY_FILE
    if not path.exists():
        return make(directory)
    key = read_private_key(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise OperatorError(
            f"{path} holds no Ed25519 key; delete it, and this peer makes one for itself."
        )
    return key


def make(directory: Path) -> Ed25519PrivateKey:
    """A new key of this peer. Raises ``OSError``."""
    key = Ed25519PrivateKey.generate()
    keep(directory, key)
    return key


def keep(directory: Path, key: Ed25519PrivateKey) -> None:
    """Make it the key of this peer. Raises ``OSError``."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_file(directory / KEY_FILE, pem, MODE_PRIVATE)
