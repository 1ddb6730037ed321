"""Events: records whose place in the log matters, while they matter.

Guarantee: ``scan`` yields them in log order. What an engine makes of a desire depends on what it
knows: a key released before a later graph that needs it is forgotten, one released after is not. So
a rebuild replays these records as the leader wrote them, less the void ones, and never regroups
them.

A row (of its graph, its error, its client) refers to each event, and takes it along when it goes.
"""

from __future__ import annotations

from collections.abc import Iterator

from ha_scheduler.ledger.encoding import decode, encode
from ha_scheduler.ledger.layout import event_key, event_place
from ha_scheduler.ledger.records import Record
from ha_scheduler.ledger.tables import EVENTS, Tables


def put(tables: Tables, index: int, data: bytes, part: int = 0) -> None:
    tables.put(EVENTS, event_key(index, part), data)


def replace(tables: Tables, index: int, record: Record) -> int:
    """Replace a record; returns the size of the new one."""
    data = encode(record)
    put(tables, index, data)
    return len(data)


def get(tables: Tables, index: int) -> Record:
    data = tables.get(EVENTS, event_key(index))
    assert data is not None, f"the ledger refers to record {index}, which it does not hold"
    return decode(data)


def drop(tables: Tables, index: int, part: int = 0) -> None:
    tables.delete(EVENTS, event_key(index, part))


def scan(tables: Tables) -> Iterator[tuple[int, bytes]]:
    for key, data in tables.scan(EVENTS):
        yield event_place(key)[0], data
