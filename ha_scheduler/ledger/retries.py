"""Keys whose errors a client has had withdrawn, and that have no other outcome since.

Guarantee: a rebuild says of each that it was retried, at the place of the record that said so: a
worker may still report the error of before the retry, and an engine that did not know would take
it for the outcome. A row goes with the key's next error, when the key is forgotten, and with its
graph.
"""

from __future__ import annotations

from ha_scheduler.ledger import events
from ha_scheduler.ledger.layout import graph_key, graph_name_key, pack, unpack
from ha_scheduler.ledger.records import Retried, encode
from ha_scheduler.ledger.tables import RETRIED, Tables


def put(tables: Tables, index: int, record: Retried) -> None:
    """The keys were retried."""
    withdraw(tables, record.graph, record.keys)
    for part, key in enumerate(dict.fromkeys(record.keys)):
        tables.put(RETRIED, graph_name_key(record.graph, key), pack((index, part)))
        events.put(tables, index, encode(Retried(record.graph, (key,))), part)


def withdraw(tables: Tables, graph: int, keys: tuple[bytes, ...]) -> None:
    """The keys have another outcome, or none any more."""
    for key in keys:
        row = graph_name_key(graph, key)
        place = tables.get(RETRIED, row)
        if place is not None:
            events.drop(tables, *unpack(place))
            tables.delete(RETRIED, row)


def drop_graph(tables: Tables, graph: int) -> None:
    """The graph is gone."""
    for _, place in tables.scan(RETRIED, graph_key(graph)):
        events.drop(tables, *unpack(place))
    tables.delete_prefix(RETRIED, graph_key(graph))
