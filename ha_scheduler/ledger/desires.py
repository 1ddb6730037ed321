"""Desires and releases: who wants which keys of which graph, in the order of the log.

Guarantee: a replay of what is kept leaves every client wanting what the whole log left it wanting,
and at no moment is a key unwanted that was wanted then. So a release cannot simply cancel a desire:
in between, the last other client may have released the key, and an unwanted key is forgotten and
cannot be desired again. A submitted graph implies its client's desires, so a release counts even
where no desire was recorded.

Order: a record stays one event, whatever the number of its keys. When the events of a pair (graph,
client) have outgrown what was left of them last time, they are settled: of each key only the first
desire stays and, if the key ends released, the last release. The client then seems to have wanted
it throughout, which keeps alive only what was alive: a key that is desired again under the same
graph was never forgotten. A tombstone of the client divides the events, and each part is settled
for itself. So appending is O(size) amortised, and a pair holds at most four times its keys and
``SLACK_BYTES``. Beyond ``SETTLE_BYTES_MAX`` settling would delay every commit, so the pair grows
until its graph is retired.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from msgspec.structs import replace

from ha_scheduler.ledger import client_tombstones, events
from ha_scheduler.ledger.layout import (
    client_of_delta,
    delta_key,
    delta_prefix,
    graph_key,
    index_at_end,
    name_key,
    pack,
    unpack,
    wants_key,
)
from ha_scheduler.ledger.records import Desired, Released
from ha_scheduler.ledger.tables import DELTAS, WANTS, Tables

SLACK_BYTES = 64 * 1024  # bytes of unsettled events of a pair that are always allowed

SETTLE_BYTES_MAX = 1024 * 1024  # bytes of a pair; 55 MB (a million keys) stalled the writer for 4 s

_SUBMITTER = 0  # index of the row that stands for the pair itself; entries start at 1


@dataclass(frozen=True, slots=True)
class Op:
    index: int
    is_desire: bool


def submitted(tables: Tables, graph: int, client: str) -> None:
    """``client`` submitted ``graph``, and so may want its keys."""
    client_key = name_key(client)
    tables.put(DELTAS, delta_key(graph, client_key, _SUBMITTER), b"")
    if tables.get(WANTS, wants_key(client_key, graph)) is None:
        tables.put(WANTS, wants_key(client_key, graph), pack((0, 0)))


def change(tables: Tables, index: int, record: Desired | Released, data: bytes) -> None:
    submitted(tables, record.graph, record.client)
    client_key = name_key(record.client)
    events.put(tables, index, data)
    tables.put(DELTAS, delta_key(record.graph, client_key, index), b"")
    pair = wants_key(client_key, record.graph)
    stored = tables.get(WANTS, pair)
    assert stored is not None
    settled_bytes, unsettled_bytes = unpack(stored)
    unsettled_bytes += len(data)
    if max(SLACK_BYTES, settled_bytes) < unsettled_bytes <= SETTLE_BYTES_MAX - settled_bytes:
        settled_bytes, unsettled_bytes = _settle(tables, record.graph, client_key), 0
    tables.put(WANTS, pair, pack((settled_bytes, unsettled_bytes)))


def drop_graph(tables: Tables, graph: int) -> None:
    """The graph is gone, with every desire for its keys."""
    clients: dict[bytes, None] = {}
    for key in tables.keys(DELTAS, graph_key(graph)):
        clients[client_of_delta(key)] = None
        if index_at_end(key) != _SUBMITTER:
            events.drop(tables, index_at_end(key))
    tables.delete_prefix(DELTAS, graph_key(graph))
    for client_key in clients:
        tables.delete(WANTS, wants_key(client_key, graph))
        client_tombstones.prune(tables, client_key)


def surviving(ops: Iterable[Op], departed: list[int]) -> Iterator[Op]:
    """Of one client's operations on one key, those that must be replayed."""
    parts: dict[int, list[Op]] = {}
    for op in ops:
        parts.setdefault(bisect_right(departed, op.index), []).append(op)
    for part in parts.values():
        yield from islice((op for op in part if op.is_desire), 1)
        if not part[-1].is_desire:
            yield part[-1]


def _settle(tables: Tables, graph: int, client_key: bytes) -> int:
    """Drop what need not be replayed of a pair; returns the bytes that remain."""
    records = _records(tables, graph, client_key)
    keep: dict[int, dict[bytes, None]] = {index: {} for index in records}
    departed = client_tombstones.indices(tables, client_key)
    for key, ops in _by_key(records).items():
        for op in surviving(ops, departed):
            keep[op.index][key] = None
    size = 0
    for index, record in records.items():
        if keep[index]:
            left = replace(record, keys=tuple(keep[index]))
            size += events.replace(tables, index, left)
        else:
            events.drop(tables, index)
            tables.delete(DELTAS, delta_key(graph, client_key, index))
    return size


def _records(tables: Tables, graph: int, client_key: bytes) -> dict[int, Desired | Released]:
    found: dict[int, Desired | Released] = {}
    for key in tables.keys(DELTAS, delta_prefix(graph, client_key)):
        index = index_at_end(key)
        if index != _SUBMITTER:
            record = events.get(tables, index)
            assert isinstance(record, Desired | Released)
            found[index] = record
    return found


def _by_key(records: dict[int, Desired | Released]) -> dict[bytes, list[Op]]:
    ops: dict[bytes, list[Op]] = {}
    for index, record in records.items():
        op = Op(index, isinstance(record, Desired))
        for key in record.keys:
            ops.setdefault(key, []).append(op)
    return ops
