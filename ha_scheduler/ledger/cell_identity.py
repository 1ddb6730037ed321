"""The identity of a cell: a random id, so that one founded anew on the same hosts is another cell.

Guarantee: every copy of a ledger has the same identity, from its first ``CellFounded`` on, and it
never changes. Terms are compared within one identity: whoever remembers a term remembers the id.

A cell that is founded from a ledger (``found_anew``) names its *predecessor*: workers, clients and
what they hold are let in, and their terms begin anew.
"""

from __future__ import annotations

import secrets

from ha_scheduler.ledger.encoding import decode, encode
from ha_scheduler.ledger.layout import pack, unpack
from ha_scheduler.ledger.records import CellFounded
from ha_scheduler.ledger.tables import CELL, Tables

_ROW = b"cell"
_ID_BYTES = 16


def draw(founder: str, predecessor: str = "") -> CellFounded:
    """A new identity, by peer ``founder``."""
    return CellFounded(secrets.token_hex(_ID_BYTES), predecessor, founder)


def put(tables: Tables, index: int, data: bytes) -> None:
    """The identity logged at ``index``. Two leaders may have drawn one: the first counts."""
    if tables.get(CELL, _ROW) is None:
        tables.put(CELL, _ROW, pack((index, data)))


def row(tables: Tables) -> bytes | None:
    """The identity as it was logged, or None: no leader has drawn one yet."""
    stored = tables.get(CELL, _ROW)
    if stored is None:
        return None
    _, data = unpack(stored)
    return bytes(data)


def load(tables: Tables) -> CellFounded | None:
    """The identity, or None: no leader has drawn one yet."""
    data = row(tables)
    record = decode(data) if data is not None else None
    assert record is None or isinstance(record, CellFounded)
    return record


def found_anew(tables: Tables, index: int, founder: str) -> CellFounded:
    """Make these tables the ledger of a new cell, the successor of theirs, as of ``index``.

    For a repair or a restore, while no peer runs on them.
    """
    before = load(tables)
    successor = draw(founder, before.cell if before is not None else "")
    tables.put(CELL, _ROW, pack((index, encode(successor))))
    return successor
