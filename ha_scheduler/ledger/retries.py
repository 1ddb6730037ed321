"""Retried keys: their errors were withdrawn, and they have no other outcome yet.

Guarantee: a rebuild has each retry at its place. A worker may still report the error that was
withdrawn, and an engine without the retry would take it for the outcome. A row goes with the key's
next error, when the key is forgotten, and with its graph.
"""

from __future__ import annotations

from ha_scheduler.ledger import events
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.layout import graph_key, graph_name_key, pack, unpack
from ha_scheduler.ledger.records import Retried
from ha_scheduler.ledger.tables import RETRIED, Tables


def put(tables: Tables, index: int, record: Retried) -> None:
    withdraw(tables, record.graph, record.keys)
    for part, key in enumerate(dict.fromkeys(record.keys)):
        tables.put(RETRIED, graph_name_key(record.graph, key), pack((index, part)))
        events.put(tables, index, encode(Retried(record.graph, (key,))), part)


def withdraw(tables: Tables, graph: int, keys: tuple[bytes, ...]) -> None:
    """The keys have another outcome, or are forgotten."""
    for key in keys:
        row = graph_name_key(graph, key)
        place = tables.get(RETRIED, row)
        if place is not None:
            events.drop(tables, *unpack(place))
            tables.delete(RETRIED, row)


def drop_graph(tables: Tables, graph: int) -> None:
    for _, place in tables.scan(RETRIED, graph_key(graph)):
        events.drop(tables, *unpack(place))
    tables.delete_prefix(RETRIED, graph_key(graph))
