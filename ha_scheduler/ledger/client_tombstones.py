"""Clients that left while events of theirs are still replayed.

Guarantee: a rebuild contains ``ClientLeft`` at its place exactly as long as it contains something
before it that the client wanted, be it implied by a graph that it submitted.
"""

from __future__ import annotations

from ha_scheduler.ledger import events
from ha_scheduler.ledger.layout import index_at_end, index_key
from ha_scheduler.ledger.tables import DEPARTED, FREE_WANTS, WANTS, Tables


def add(tables: Tables, index: int, client_key: bytes, data: bytes) -> None:
    """The client left; ``data`` is the record of it."""
    if _matters(tables, client_key):
        events.put(tables, index, data)
        tables.put(DEPARTED, client_key + index_key(index), b"")


def prune(tables: Tables, client_key: bytes) -> None:
    """Something that the client wanted has gone; if it was the last, so do its departures."""
    if _matters(tables, client_key):
        return
    for key in tables.keys(DEPARTED, client_key):
        events.drop(tables, index_at_end(key))
    tables.delete_prefix(DEPARTED, client_key)


def indices(tables: Tables, client_key: bytes) -> list[int]:
    """When the client left, rising."""
    return [index_at_end(key) for key in tables.keys(DEPARTED, client_key)]


def _matters(tables: Tables, client_key: bytes) -> bool:
    return tables.has_any(WANTS, client_key) or tables.has_any(FREE_WANTS, client_key)
