"""The shortest sequence of records that brings an empty engine or ledger to the same state.

Guarantee: ``fold`` of ``rebuild(tables)`` into empty tables yields a ledger with the same
``digest``; two ledgers with the same digest rebuild byte for byte alike.

Order: what graphs refer to comes before them (values such as plugins, sessions, clients, workers);
a blob's parts come right before the record that names it; of a graph first its payload, then who
wants what of it, then what is already done with, then its errors. Loose blob parts come last: the
record that names them is still in the log or to be written.

What no longer matters is left out: a key desired and released again, a client that left. A graph
whose session has been dropped is shown without its session, or the replay would revive it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b

from ha_scheduler.ledger import blobs, desires, sessions
from ha_scheduler.ledger.fold import NO_GRAPH, current_term, graph_blob, value_blob
from ha_scheduler.ledger.layout import graph_key, graph_of, unpack
from ha_scheduler.ledger.records import (
    Desired,
    GraphSubmitted,
    Scattered,
    SessionRestored,
    TermStarted,
    ValueSet,
    decode,
    encode,
)
from ha_scheduler.ledger.tables import (
    CLIENTS,
    ERRORS,
    FORGOTTEN,
    GRAPHS,
    SCATTERED,
    VALUES,
    WORKERS,
    Tables,
)

KEYS_BYTES_MAX = 512 * 1024  # bytes of keys in one record of a rebuild


def rebuild(tables: Tables) -> Iterator[bytes]:
    """Encoded records. ``tables`` must not change meanwhile: hold a read view."""
    yield from _term(tables)
    yield from _values(tables)
    yield from _sessions(tables)
    for table in (CLIENTS, WORKERS):
        yield from _rows(tables, table)
    for key in tables.keys(GRAPHS):
        yield from _graph(tables, graph_of(key))
    yield from _rows(tables, ERRORS, graph_key(NO_GRAPH))
    yield from _scattered(tables)
    yield from _desires(tables, NO_GRAPH)
    for term, blob in blobs.loose(tables):
        yield from _parts(tables, (term, blob))


def digest(tables: Tables) -> bytes:
    """Equal for ledgers that mean the same, however their rows came about."""
    total = blake2b(digest_size=16)
    for data in rebuild(tables):
        total.update(len(data).to_bytes(4, "big"))
        total.update(data)
    return total.digest()


def _term(tables: Tables) -> Iterator[bytes]:
    term, leader = current_term(tables)
    if term:
        yield encode(TermStarted(term, leader))


def _values(tables: Tables) -> Iterator[bytes]:
    for _, row in tables.scan(VALUES):
        value = decode(row)
        assert isinstance(value, ValueSet)
        yield from _parts(tables, value_blob(value))
        yield encode(replace(value, session="", sequence=sessions.UNNUMBERED))


def _sessions(tables: Tables) -> Iterator[bytes]:
    for session, answers in sessions.scan_answers(tables):
        yield encode(SessionRestored(session, answers.floor, answers.bounds))


def _rows(tables: Tables, table: str, prefix: bytes = b"") -> Iterator[bytes]:
    """Tables whose rows are records as they were logged."""
    for _, row in tables.scan(table, prefix):
        yield row


def _graph(tables: Tables, graph: int) -> Iterator[bytes]:
    row = tables.get(GRAPHS, graph_key(graph))
    assert row is not None
    record = decode(row)
    assert isinstance(record, GraphSubmitted)
    yield from _parts(tables, graph_blob(record))
    yield encode(_without_dropped_session(tables, record))
    yield from _desires(tables, graph)
    yield from _rows(tables, FORGOTTEN, graph_key(graph))
    yield from _rows(tables, ERRORS, graph_key(graph))


def _without_dropped_session(tables: Tables, record: GraphSubmitted) -> GraphSubmitted:
    if sessions.load_answers(tables, record.session).answered(record.sequence):
        return record
    return replace(record, session="", sequence=sessions.UNNUMBERED)


def _parts(tables: Tables, blob: tuple[int, int] | None) -> Iterator[bytes]:
    if blob is not None:
        for part in blobs.parts(tables, *blob):
            yield encode(part)


def _desires(tables: Tables, graph: int) -> Iterator[bytes]:
    for client in desires.clients(tables, graph):
        keys = desires.wanted(tables, graph, client)
        for batch in desires.batches(keys, KEYS_BYTES_MAX):
            yield encode(Desired(graph, client, batch))


def _scattered(tables: Tables) -> Iterator[bytes]:
    """Grouped by client within a window of one record's keys, so that memory stays bounded."""
    window: dict[str, list[bytes]] = {}
    size = 0
    for _, row in tables.scan(SCATTERED):
        client, key = unpack(row)
        if size + len(key) > KEYS_BYTES_MAX:
            yield from _scattered_records(window.items())
            window, size = {}, 0
        window.setdefault(client, []).append(key)
        size += len(key)
    yield from _scattered_records(window.items())


def _scattered_records(groups: Iterable[tuple[str, list[bytes]]]) -> Iterator[bytes]:
    for client, keys in groups:
        yield encode(Scattered(client, tuple(keys)))
