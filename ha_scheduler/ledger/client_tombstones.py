"""Tombstones: clients that left while events of theirs are still replayed.

Guarantee: a rebuild has ``ClientLeft`` at its place exactly as long as it has anything before it
that the client wanted, or that a graph of the client implies.
"""

from __future__ import annotations

from ha_scheduler.ledger import events
from ha_scheduler.ledger.layout import index_at_end, index_key
from ha_scheduler.ledger.tables import DEPARTED, FREE_WANTS, WANTS, Tables


def add(tables: Tables, index: int, client_key: bytes, data: bytes) -> None:
    if _matters(tables, client_key):
        events.put(tables, index, data)
        tables.put(DEPARTED, client_key + index_key(index), b"")


def prune(tables: Tables, client_key: bytes) -> None:
    """A desire of the client went; with the last one, so do its tombstones."""
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
