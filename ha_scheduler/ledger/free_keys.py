"""Desires for keys of no graph: scattered keys, and keys that are merely mentioned.

Guarantee: that of ``desires.py``, per key. No graph is retired with these events, so each is kept
per key: until the key is no longer scattered, or, for one that never was, until the client releases
it.
"""

from __future__ import annotations

from ha_scheduler.ledger import client_tombstones, desires, events
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.layout import NAME_BYTES, event_key, event_place, name_key, pack, unpack
from ha_scheduler.ledger.records import Desired, Released, Scattered
from ha_scheduler.ledger.tables import FREE_DELTAS, FREE_WANTS, SCATTERED, Tables

_DESIRED = b"+"
_RELEASED = b"-"


def change(tables: Tables, index: int, record: Desired | Released) -> None:
    for part, key in enumerate(dict.fromkeys(record.keys)):
        one = type(record)(record.graph, record.client, (key,))
        _change_one(tables, index, part, name_key(key), one)


def scattered(tables: Tables, index: int, record: Scattered) -> None:
    """Keys were scattered; the client wants them."""
    client_key = name_key(record.client)
    for part, key in enumerate(dict.fromkeys(record.keys)):
        pair = name_key(key) + client_key
        if tables.get(SCATTERED, pair) is None:
            tables.put(SCATTERED, pair, pack((index, part)))
            tables.put(FREE_WANTS, client_key + name_key(key), b"")
            events.put(tables, index, encode(Scattered(record.client, (key,))), part)
        else:
            _change_one(tables, index, part, name_key(key), Desired(0, record.client, (key,)))


def forget(tables: Tables, keys: tuple[bytes, ...]) -> None:
    """The keys are not scattered any more, and nobody wants them."""
    for key in keys:
        _forget_one(tables, name_key(key))


def client_left(tables: Tables, client_key: bytes) -> None:
    """Drop the client's desires for keys that were never scattered."""
    for row in tables.keys(FREE_WANTS, client_key):
        key = row[NAME_BYTES:]
        if not _is_scattered(tables, key):
            _drop_pair(tables, key, client_key)


def drop_all(tables: Tables) -> None:
    """Drop all of these keys. The caller clears the events."""
    for table in (SCATTERED, FREE_DELTAS, FREE_WANTS):
        tables.delete_prefix(table, b"")


def _change_one(
    tables: Tables, index: int, part: int, key: bytes, record: Desired | Released
) -> None:
    client_key = name_key(record.client)
    is_desire = isinstance(record, Desired)
    if not is_desire and not _is_scattered(tables, key):
        _drop_pair(tables, key, client_key)
        client_tombstones.prune(tables, client_key)
        return
    events.put(tables, index, encode(record), part)
    row = key + client_key + event_key(index, part)
    tables.put(FREE_DELTAS, row, _DESIRED if is_desire else _RELEASED)
    tables.put(FREE_WANTS, client_key + key, b"")
    _settle(tables, key, client_key)


def _settle(tables: Tables, key: bytes, client_key: bytes) -> None:
    ops = {
        desires.Op(event_place(row)[0], sign == _DESIRED): row
        for row, sign in tables.scan(FREE_DELTAS, key + client_key)
    }
    keep = set(desires.surviving(ops, client_tombstones.indices(tables, client_key)))
    for op, row in ops.items():
        if op not in keep:
            _drop_row(tables, row)


def _forget_one(tables: Tables, key: bytes) -> None:
    clients: dict[bytes, None] = {}
    for pair, place in tables.scan(SCATTERED, key):
        events.drop(tables, *unpack(place))
        clients[pair[NAME_BYTES:]] = None
    tables.delete_prefix(SCATTERED, key)
    for row in tables.keys(FREE_DELTAS, key):
        clients[row[NAME_BYTES : 2 * NAME_BYTES]] = None
    for client_key in clients:
        _drop_pair(tables, key, client_key)
        client_tombstones.prune(tables, client_key)


def _drop_pair(tables: Tables, key: bytes, client_key: bytes) -> None:
    for row in tables.keys(FREE_DELTAS, key + client_key):
        _drop_row(tables, row)
    tables.delete(FREE_WANTS, client_key + key)


def _drop_row(tables: Tables, row: bytes) -> None:
    events.drop(tables, *event_place(row))
    tables.delete(FREE_DELTAS, row)


def _is_scattered(tables: Tables, key: bytes) -> bool:
    return tables.has_any(SCATTERED, key)
