"""Records whose place among the others matters, kept in the order of the log while they matter.

Guarantee: ``scan`` yields them in log order. What an engine makes of a desire depends on what it
already knows: a key released before a later graph that needs it was submitted is forgotten, one
released after is not. So a rebuild must replay these records as the leader wrote them, less those
that have become void, and never regroup them.

Each event is found again from the row that makes it matter (its graph, its error, its client), and
goes with that row.
"""

from __future__ import annotations

from collections.abc import Iterator

from ha_scheduler.ledger.layout import event_key, event_place
from ha_scheduler.ledger.records import Record, decode, encode
from ha_scheduler.ledger.tables import EVENTS, Tables


def put(tables: Tables, index: int, data: bytes, part: int = 0) -> None:
    """Keep an encoded record at its place."""
    tables.put(EVENTS, event_key(index, part), data)


def replace(tables: Tables, index: int, record: Record) -> int:
    """Put another record in the place of one; its size."""
    data = encode(record)
    put(tables, index, data)
    return len(data)


def get(tables: Tables, index: int) -> Record:
    """The record at a place."""
    data = tables.get(EVENTS, event_key(index))
    assert data is not None, f"the ledger refers to record {index}, which it does not hold"
    return decode(data)


def drop(tables: Tables, index: int, part: int = 0) -> None:
    """The record does not matter any more."""
    tables.delete(EVENTS, event_key(index, part))


def scan(tables: Tables) -> Iterator[tuple[int, bytes]]:
    """(index, encoded record) in log order."""
    for key, data in tables.scan(EVENTS):
        yield event_place(key)[0], data
