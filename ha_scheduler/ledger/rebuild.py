"""The shortest sequence of records that brings an empty engine or ledger to the same state.

Guarantee: an engine or ledger that applies ``rebuild(tables)`` has the state of one that applied
the whole log. Two ledgers with the same log have the same ``digest``.

Order: peers, maintenance, tokens, rejections and the quarantine first (no engine reads what is set
aside), then values (graphs need plugins and files), then every event in log order (see ``events``),
a blob's parts right before the record that names it. Sessions and answers follow, since they
overwrite what the replay of graphs and tombstones made of them. Loose blob parts are last: the
record that names them is still to come.

A graph whose session has been dropped loses it here, or the replay would revive the session.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from typing import Any

from msgspec.structs import replace

from ha_scheduler.ledger import (
    blobs,
    calls,
    cell_identity,
    events,
    maintenance,
    peer_table,
    quarantine,
    rejections,
    runs,
    sessions,
    tokens,
)
from ha_scheduler.ledger.admission import graph_blob, term_blob
from ha_scheduler.ledger.blobs import Blob
from ha_scheduler.ledger.encoding import decode, encode
from ha_scheduler.ledger.fold import latest_term
from ha_scheduler.ledger.records import (
    Called,
    CaseRestored,
    Desired,
    GraphsRetired,
    GraphSubmitted,
    Released,
    Retried,
    Scattered,
    SessionRestored,
    ValueSet,
)
from ha_scheduler.ledger.tables import VALUES, Tables

KEYS_BYTES_MAX = 512 * 1024  # bytes of keys in one record that a rebuild puts together


def rebuild(tables: Tables) -> Iterator[bytes]:
    """Encoded records. ``tables`` must not change meanwhile: hold a read view."""
    if (latest := latest_term(tables)) is not None:
        yield latest
    if (identity := cell_identity.row(tables)) is not None:
        yield identity
    for _, row in peer_table.scan(tables):
        yield row
    yield from maintenance.scan(tables)
    yield from tokens.scan(tables)
    yield from map(encode, rejections.scan(tables))
    for case in quarantine.scan(tables):
        yield encode(CaseRestored(case.exposure, case.deaths))
    yield from _values(tables)
    for index, group in groupby(events.scan(tables), key=itemgetter(0)):
        yield from _event(tables, index, (data for _, data in group))
    for upto in runs.load(tables).values():
        yield encode(GraphsRetired((), upto))
    yield from _sessions(tables)
    yield from _calls(tables)
    for blob in blobs.loose(tables):
        yield from _parts(tables, blob)


def digest(tables: Tables) -> bytes:
    """Equal for ledgers that have applied the same log, loaded from a dump or not."""
    return digest_of(rebuild(tables))


def digest_of(records: Iterable[bytes]) -> bytes:
    """Of what ``rebuild`` gives."""
    total = blake2b(digest_size=16)
    for data in records:
        total.update(len(data).to_bytes(4, "big"))
        total.update(data)
    return total.digest()


def _values(tables: Tables) -> Iterator[bytes]:
    for _, row in tables.scan(VALUES):
        value = decode(row)
        assert isinstance(value, ValueSet)
        yield from _parts(tables, term_blob(value))
        yield row


def _sessions(tables: Tables) -> Iterator[bytes]:
    for session, answers in sessions.scan_answers(tables):
        yield encode(SessionRestored(session, answers.floor, answers.bounds))


def _calls(tables: Tables) -> Iterator[bytes]:
    for record in calls.scan(tables):
        if isinstance(record, Called):
            yield from _parts(tables, term_blob(record))
        yield encode(record)


def _event(tables: Tables, index: int, parts: Iterator[bytes]) -> Iterator[bytes]:
    """What is left of the record logged at ``index``."""
    data = next(parts)
    record = decode(data)
    if isinstance(record, GraphSubmitted):
        yield from _parts(tables, graph_blob(record))
        yield encode(_without_dropped_session(tables, record))
    elif isinstance(record, Desired | Released | Retried | Scattered):
        yield from _joined([record, *map(decode, parts)])
    else:
        yield data


def _joined(records: list[Any]) -> Iterator[bytes]:
    """One record again, where the fold split it by key."""
    for _, same in groupby(records, key=type):
        group = list(same)
        keys = [key for record in group for key in record.keys]
        for batch in batches(keys, KEYS_BYTES_MAX):
            yield encode(replace(group[0], keys=batch))


def _without_dropped_session(tables: Tables, record: GraphSubmitted) -> GraphSubmitted:
    if sessions.load_answers(tables, record.session).answered(record.sequence):
        return record
    return replace(record, session="", sequence=sessions.UNNUMBERED)


def _parts(tables: Tables, blob: Blob | None) -> Iterator[bytes]:
    if blob is not None:
        for part in blobs.parts(tables, blob):
            yield encode(part)


def batches(keys: Iterable[bytes], bytes_max: int) -> Iterator[tuple[bytes, ...]]:
    """The keys in groups of at most ``bytes_max`` bytes; a longer key is a group."""
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
