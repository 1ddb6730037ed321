"""Maintenance: what operators have ordered about who stands for election.

Guarantee: the newest order on a peer, or on all (the name ``""``), is its row while it is active;
one that is lifted has none. An order whose time is over keeps its row, for a fold knows no clock:
who reads it compares. Bounded: beyond ``ORDERS_MAX`` the oldest goes, which takes peers that were
drained and then removed.
"""

from __future__ import annotations

from collections.abc import Iterator

from ha_scheduler.ledger.encoding import decode
from ha_scheduler.ledger.layout import name_key, pack, unpack
from ha_scheduler.ledger.records import MaintenanceSet
from ha_scheduler.ledger.tables import MAINTENANCE, Tables

ALL = ""  # the peer of an order on all
ORDERS_MAX = 64


def put(tables: Tables, index: int, record: MaintenanceSet, data: bytes) -> None:
    """Apply ``record``, logged at ``index`` as ``data``."""
    key = name_key(record.peer)
    if not record.active:
        tables.delete(MAINTENANCE, key)
        return
    tables.put(MAINTENANCE, key, pack((index, data)))
    rows = sorted((unpack(row)[0], key) for key, row in tables.scan(MAINTENANCE))
    for _, oldest in rows[: max(0, len(rows) - ORDERS_MAX)]:
        tables.delete(MAINTENANCE, oldest)


def scan(tables: Tables) -> Iterator[bytes]:
    """The active orders as they were logged, in the order of the log."""
    for _, data in sorted(unpack(row) for _, row in tables.scan(MAINTENANCE)):
        yield data


def orders(tables: Tables) -> Iterator[MaintenanceSet]:
    """The active orders, in the order of the log."""
    for data in scan(tables):
        record = decode(data)
        assert isinstance(record, MaintenanceSet)
        yield record
