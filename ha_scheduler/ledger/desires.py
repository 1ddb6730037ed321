"""Who wants which keys of which graph.

Guarantee: ``wanted(graph, client)`` is what a set would hold after every ``Desired`` and
``Released`` of that pair in log order. Pairs do not influence each other, so order is kept per pair
only.

A record is appended as one row, whatever the number of its keys: a million futures of one graph
cost the bytes of their keys and no million rows. When the rows of a pair that came since its last
settlement outweigh those before (or when nothing may be left of it), they are replayed into the set
they mean and written back. Appending is therefore O(size) amortised, and a pair never holds more
than twice its live keys and ``SLACK_BYTES``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ha_scheduler.ledger.layout import (
    NAME_BYTES,
    client_of_delta,
    delta_key,
    delta_prefix,
    graph_key,
    graph_of,
    name_key,
    pack,
    unpack,
    wants_key,
)
from ha_scheduler.ledger.tables import DELTAS, WANTS, Tables

SLACK_BYTES = 64 * 1024  # bytes of unsettled rows of a pair that are always allowed
ROW_BYTES_MAX = 256 * 1024  # bytes of keys in a row that settling writes

_DESIRED = 1
_RELEASED = 0


@dataclass(frozen=True, slots=True)
class _Weight:
    """What the rows of a pair weigh. ``net``: keys desired less keys released, as counted."""

    client: str
    settled_bytes: int = 0
    unsettled_bytes: int = 0
    net: int = 0

    @property
    def is_due(self) -> bool:
        return self.net <= 0 or self.unsettled_bytes > max(SLACK_BYTES, self.settled_bytes)


def desire(tables: Tables, index: int, graph: int, client: str, keys: tuple[bytes, ...]) -> None:
    """``client`` wants these keys of ``graph``."""
    if keys:
        _append(tables, index, graph, client, _DESIRED, keys)


def release(tables: Tables, index: int, graph: int, client: str, keys: tuple[bytes, ...]) -> None:
    """``client`` no longer wants these keys of ``graph``."""
    if keys and tables.get(WANTS, wants_key(name_key(client), graph)) is not None:
        _append(tables, index, graph, client, _RELEASED, keys)


def wanted(tables: Tables, graph: int, client: str) -> list[bytes]:
    """The keys of ``graph`` that ``client`` wants, the longest wanted first."""
    return list(_replay(tables, delta_prefix(graph, name_key(client))))


def clients(tables: Tables, graph: int) -> Iterator[str]:
    """The clients that may want keys of ``graph``."""
    for client_key in _client_keys(tables, graph):
        row = tables.get(WANTS, wants_key(client_key, graph))
        if row is not None:
            yield _Weight(*unpack(row)).client


def drop_graph(tables: Tables, graph: int) -> None:
    """The graph is gone and every desire for its keys with it."""
    for client_key in _client_keys(tables, graph):
        tables.delete(WANTS, wants_key(client_key, graph))
    tables.delete_prefix(DELTAS, graph_key(graph))


def drop_client(tables: Tables, client: str) -> None:
    """The client is gone and every desire of its with it."""
    client_key = name_key(client)
    for key in tables.keys(WANTS, client_key):
        tables.delete_prefix(DELTAS, delta_prefix(graph_of(key[NAME_BYTES:]), client_key))
    tables.delete_prefix(WANTS, client_key)


def drop_all(tables: Tables) -> None:
    """Nobody wants anything."""
    tables.delete_prefix(DELTAS, b"")
    tables.delete_prefix(WANTS, b"")


def _client_keys(tables: Tables, graph: int) -> list[bytes]:
    seen = {client_of_delta(key): None for key in tables.keys(DELTAS, graph_key(graph))}
    return list(seen)


def _append(
    tables: Tables, index: int, graph: int, client: str, sign: int, keys: tuple[bytes, ...]
) -> None:
    client_key = name_key(client)
    pair = wants_key(client_key, graph)
    stored = tables.get(WANTS, pair)
    old = _Weight(client) if stored is None else _Weight(*unpack(stored))
    row = pack((sign, keys))
    tables.put(DELTAS, delta_key(graph, client_key, index, 0), row)
    net = old.net + (len(keys) if sign == _DESIRED else -len(keys))
    weight = _Weight(client, old.settled_bytes, old.unsettled_bytes + len(row), net)
    if weight.is_due:
        _settle(tables, index, graph, client)
    else:
        _put_weight(tables, pair, weight)


def _settle(tables: Tables, index: int, graph: int, client: str) -> None:
    """Write the set that the rows of a pair mean in their place."""
    client_key = name_key(client)
    prefix = delta_prefix(graph, client_key)
    keys = _replay(tables, prefix)
    tables.delete_prefix(DELTAS, prefix)
    written = 0
    for part, batch in enumerate(batches(keys, ROW_BYTES_MAX)):
        row = pack((_DESIRED, batch))
        tables.put(DELTAS, delta_key(graph, client_key, index, part), row)
        written += len(row)
    pair = wants_key(client_key, graph)
    if keys:
        _put_weight(tables, pair, _Weight(client, written, 0, len(keys)))
    else:
        tables.delete(WANTS, pair)


def _put_weight(tables: Tables, pair: bytes, weight: _Weight) -> None:
    fields = (weight.client, weight.settled_bytes, weight.unsettled_bytes, weight.net)
    tables.put(WANTS, pair, pack(fields))


def _replay(tables: Tables, prefix: bytes) -> dict[bytes, None]:
    keys: dict[bytes, None] = {}
    for _, row in tables.scan(DELTAS, prefix):
        sign, changed = unpack(row)
        if sign == _DESIRED:
            keys.update(dict.fromkeys(changed))
        else:
            for key in changed:
                keys.pop(key, None)
    return keys


def batches(keys: dict[bytes, None] | list[bytes], bytes_max: int) -> Iterator[tuple[bytes, ...]]:
    """The keys in groups of at most ``bytes_max`` bytes (a single longer key is its own group)."""
    group: list[bytes] = []
    size = 0
    for key in keys:
        if group and size + len(key) > bytes_max:
            yield tuple(group)
            group, size = [], 0
        group.append(key)
        size += len(key) + 5  # msgpack's longest header of a byte string
    if group:
        yield tuple(group)
