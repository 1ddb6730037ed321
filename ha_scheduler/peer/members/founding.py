"""A disk's identity beside LMDB: the list that founded its cell, and its own number.

Guarantee: the file is complete and durable before the store is made, and is never written again,
but by an operator who founds another cell (``repair/found_anew.py``). So this peer says the same of
itself after every crash.

The founding list is the cell's identity for ever; ``--peers`` may name the peers of today instead.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from ha_scheduler.cell.peers import Cell, parse_peers
from ha_scheduler.errors import OperatorError
from ha_scheduler.security.files import MODE_PRIVATE, write_file

FILE = "founding.json"
NUMBER_BITS = 53  # as the ids of peers: what JSON keeps exactly


@dataclass(frozen=True, slots=True)
class Founding:
    """``peer_id``: the Raft id. ``disk``: drawn for this directory. ``witness``: has no ledger."""

    cell: Cell
    peer_id: int
    disk: int
    witness: bool


def load(directory: Path) -> Founding | None:
    """The file's content, if it exists. Raises ``OperatorError``."""
    try:
        text = (directory / FILE).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OperatorError(
            f"{directory / FILE} cannot be read: {error.strerror}; see to its permissions."
        ) from error
    try:
        known = json.loads(text)
        cell = parse_peers(str(known["peers"]), any_count=True)
        return Founding(cell, int(known["id"]), int(known["disk"]), bool(known["witness"]))
    except (ValueError, KeyError, TypeError, OperatorError) as error:
        raise OperatorError(
            f"{directory / FILE} is damaged ({error!r}); delete the data in {directory} and start "
            f"this peer with --replace."
        ) from error


def create(directory: Path, cell: Cell, peer_id: int, *, witness: bool) -> Founding:
    """Set up a new disk."""
    founding = Founding(cell, peer_id, draw_number(), witness)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = {"peers": cell.text, "id": peer_id, "disk": founding.disk, "witness": witness}
    write_file(directory / FILE, json.dumps(known).encode(), MODE_PRIVATE)
    return founding


def draw_number() -> int:
    """A number that no other disk has, for its id or its disk number."""
    return random.SystemRandom().getrandbits(NUMBER_BITS) or 1
