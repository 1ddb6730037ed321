"""The fold: one committed record into the ledger's tables.

Guarantee: a pure function of the tables and the record: no clock, no randomness, no iteration order
of a set. Peers that apply the same records in the same order have the same rows.

It is total: whatever bytes have committed, applying them does not raise. A record that cannot be
applied is judged before anything is written (``admission``), passed over by every peer alike, and
written down (``rejections``). Only storage and memory may fail a fold, and end the process.

Order: a record about a graph that is not there (retired, or void since ``Restarted``) changes
nothing. It is legitimate: ``Forgotten`` may come late, and so may what a leader batched before
``Restarted``.

Cost: O(size of the record), amortised for desires. ``GraphsRetired``, ``ClientLeft``, ``Restarted``
and ``TermStarted`` cost what they remove.

A record of a newer release raises ``UnknownRecordError`` and must stop the peer: no later record
would fill the hole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from ha_scheduler.ledger import (
    blobs,
    calls,
    cell_identity,
    client_tombstones,
    desires,
    events,
    free_keys,
    indexes,
    maintenance,
    peer_table,
    quarantine,
    rejections,
    retries,
    runs,
    sessions,
    tokens,
)
from ha_scheduler.ledger.admission import admit, graph_blob, term_blob
from ha_scheduler.ledger.encoding import decode
from ha_scheduler.ledger.layout import (
    graph_index_key,
    graph_key,
    graph_name_key,
    index_at_end,
    index_key,
    name_key,
    pack,
    unpack,
    value_key,
)
from ha_scheduler.ledger.records import (
    AnswerDropped,
    Answered,
    BlobPart,
    Called,
    CallsEnded,
    CallsOpened,
    CaseReleased,
    CaseRestored,
    CellFounded,
    ClientJoined,
    ClientLeft,
    Desired,
    EngineEnded,
    Erred,
    Forgotten,
    GraphsRetired,
    GraphSubmitted,
    MaintenanceSet,
    PeerNamed,
    Record,
    RecordRejected,
    Released,
    Restarted,
    Retried,
    Scattered,
    ScatteredForgotten,
    SessionAdvanced,
    SessionRestored,
    SigningKeyAdded,
    SigningKeyRetired,
    TermStarted,
    TokenIssued,
    TokenRevoked,
    ValueDeleted,
    ValueSet,
)
from ha_scheduler.ledger.tables import (
    CLIENTS,
    DELTAS,
    DEPARTED,
    ERRORS,
    EVENTS,
    FORGOTTEN,
    GRAPHS,
    META,
    RETRIED,
    VALUES,
    WANTS,
    Tables,
)
from ha_scheduler.ledger.unfit import RejectedRecord

NO_GRAPH = 0  # the graph of keys that belong to none, such as scattered ones
_TERM_ROW = b"term"


def fold(tables: Tables, index: int, term: int, data: bytes) -> RecordRejected | None:
    """Apply the entry committed at ``index`` in ``term``, or reject it: then return what is kept.

    Empty ``data`` is Raft's own no-op. Raises ``UnknownRecordError``, and leaves the tables
    unchanged.
    """
    if not data:
        return None
    try:
        admitted = admit(tables, data)
    except RejectedRecord as why:
        return rejections.reject(tables, index, term, data, why.reason)
    for change, encoded in admitted.changes:
        _APPLY[type(change)](tables, index, change, encoded)
    record = admitted.record
    if isinstance(record, Called):
        calls.keep(tables, index, record, admitted.answer)
    else:
        _APPLY[type(record)](tables, index, record, data)
    return None


def latest_term(tables: Tables) -> bytes | None:
    """The latest ``TermStarted``, encoded: to decode it tells whether this release may read on."""
    return tables.get(META, _TERM_ROW)


def _term_started(tables: Tables, index: int, record: TermStarted, data: bytes) -> None:
    blobs.drop_loose_before(tables, record.term)
    tables.put(META, _TERM_ROW, data)


def _graph_submitted(tables: Tables, index: int, record: GraphSubmitted, data: bytes) -> None:
    if (owned := graph_blob(record)) is not None:
        blobs.claim(tables, owned)
    tables.put(GRAPHS, graph_key(record.graph), index_key(index))
    events.put(tables, index, data)
    desires.submitted(tables, record.graph, record.client)
    sessions.answer_of(tables, record.client, record.session, (record.sequence,))


def _graphs_retired(tables: Tables, index: int, record: GraphsRetired, data: bytes) -> None:
    runs.advance_stored(tables, record.upto)
    for graph in record.graphs:
        row = tables.get(GRAPHS, graph_key(graph))
        if row is not None:
            _drop_graph(tables, graph, row)


def _drop_graph(tables: Tables, graph: int, row: bytes) -> None:
    _drop_graph_payload(tables, row)
    events.drop(tables, index_at_end(row))
    desires.drop_graph(tables, graph)
    for key in tables.keys(FORGOTTEN, graph_key(graph)):
        events.drop(tables, index_at_end(key))
    for _, place in tables.scan(ERRORS, graph_key(graph)):
        events.drop(tables, index_at_end(place))
    tables.delete_prefix(FORGOTTEN, graph_key(graph))
    tables.delete_prefix(ERRORS, graph_key(graph))
    retries.drop_graph(tables, graph)
    tables.delete(GRAPHS, graph_key(graph))


def _drop_graph_payload(tables: Tables, row: bytes) -> None:
    record = events.get(tables, index_at_end(row))
    assert isinstance(record, GraphSubmitted)
    if (owned := graph_blob(record)) is not None:
        blobs.discard(tables, owned)


def _desires_changed(tables: Tables, index: int, record: Desired | Released, data: bytes) -> None:
    if isinstance(record, Released):
        runs.advance_stored(tables, record.upto)
    if record.graph == NO_GRAPH:
        free_keys.change(tables, index, record)
    elif record.keys and _is_known(tables, record.graph):
        desires.change(tables, index, record, data)


def _forgotten(tables: Tables, index: int, record: Forgotten, data: bytes) -> None:
    """A forgotten task has no outcome: its error goes, and its retry."""
    _withdraw_errors(tables, record.graph, record.keys)
    retries.withdraw(tables, record.graph, record.keys)
    if record.keys and record.graph != NO_GRAPH and _is_known(tables, record.graph):
        tables.put(FORGOTTEN, graph_index_key(record.graph, index), b"")
        events.put(tables, index, data)


def _erred(tables: Tables, index: int, record: Erred, data: bytes) -> None:
    if _is_known(tables, record.graph):
        _withdraw_errors(tables, record.graph, (record.key,))
        retries.withdraw(tables, record.graph, (record.key,))
        tables.put(ERRORS, graph_name_key(record.graph, record.key), index_key(index))
        events.put(tables, index, data)


def _retried(tables: Tables, index: int, record: Retried, data: bytes) -> None:
    _withdraw_errors(tables, record.graph, record.keys)
    if record.graph != NO_GRAPH and _is_known(tables, record.graph):
        retries.put(tables, index, record)


def _withdraw_errors(tables: Tables, graph: int, keys: tuple[bytes, ...]) -> None:
    for key in keys:
        row = graph_name_key(graph, key)
        place = tables.get(ERRORS, row)
        if place is not None:
            events.drop(tables, index_at_end(place))
            tables.delete(ERRORS, row)


def _client_joined(tables: Tables, index: int, record: ClientJoined, data: bytes) -> None:
    """A client that is known keeps its place."""
    former = indexes.delete(tables, CLIENTS, name_key(record.client))
    place, _, session, *_ = (index, "", "") if former is None else unpack(former)
    row = pack((place, record.client, record.session, record.subject, record.scopes))
    indexes.put(tables, CLIENTS, name_key(record.client), row)
    events.put(tables, place, data)
    if session not in ("", record.session):
        sessions.drop_if_unused(tables, session)


def _client_left(tables: Tables, index: int, record: ClientLeft, data: bytes) -> None:
    runs.advance_stored(tables, record.upto)
    client_key = name_key(record.client)
    row = indexes.delete(tables, CLIENTS, client_key)
    if row is not None:
        place, _, session, *_ = unpack(row)
        events.drop(tables, place)
        if session:
            sessions.drop_if_unused(tables, session)
    free_keys.client_left(tables, client_key)
    client_tombstones.add(tables, index, client_key, data)


def _session_advanced(tables: Tables, index: int, record: SessionAdvanced, data: bytes) -> None:
    answers = sessions.load_answers(tables, record.session)
    sessions.store_answers(tables, record.session, answers.advance(record.floor))


def _session_restored(tables: Tables, index: int, record: SessionRestored, data: bytes) -> None:
    answers = sessions.Answers(record.floor, record.answered)
    sessions.store_answers(tables, record.session, answers)


def _value_set(tables: Tables, index: int, record: ValueSet, data: bytes) -> None:
    _drop_term_blob(tables, record)
    if (owned := term_blob(record)) is not None:
        blobs.claim(tables, owned)
    tables.put(VALUES, value_key(record.space, record.name), data)


def _value_deleted(tables: Tables, index: int, record: ValueDeleted, data: bytes) -> None:
    _drop_term_blob(tables, record)
    tables.delete(VALUES, value_key(record.space, record.name))


def _drop_term_blob(tables: Tables, changed: ValueSet | ValueDeleted) -> None:
    row = tables.get(VALUES, value_key(changed.space, changed.name))
    if row is None:
        return
    former = decode(row)
    assert isinstance(former, ValueSet)
    if (owned := term_blob(former)) is not None:
        blobs.discard(tables, owned)


def _restarted(tables: Tables, index: int, record: Restarted, data: bytes) -> None:
    """Loose blobs and those of values stay: they belong to no graph."""
    for _, row in tables.scan(GRAPHS):
        _drop_graph_payload(tables, row)
    free_keys.drop_all(tables)
    for table in (EVENTS, GRAPHS, DELTAS, WANTS, FORGOTTEN, ERRORS, RETRIED, DEPARTED):
        tables.delete_prefix(table, b"")
    for _, row in tables.scan(CLIENTS):
        place, *joined = unpack(row)
        events.replace(tables, place, ClientJoined(*joined))


def _is_known(tables: Tables, graph: int) -> bool:
    return graph == NO_GRAPH or tables.get(GRAPHS, graph_key(graph)) is not None


_APPLY: dict[type[Any], Callable[[Tables, int, Any, bytes], None]] = {
    TermStarted: _term_started,
    BlobPart: lambda tables, index, record, data: blobs.add_part(tables, record),
    GraphSubmitted: _graph_submitted,
    GraphsRetired: _graphs_retired,
    Desired: _desires_changed,
    Released: _desires_changed,
    Forgotten: _forgotten,
    Erred: _erred,
    Retried: _retried,
    Scattered: lambda tables, index, record, data: free_keys.scattered(tables, index, record),
    ScatteredForgotten: lambda tables, index, record, data: free_keys.forget(tables, record.keys),
    ClientJoined: _client_joined,
    ClientLeft: _client_left,
    SessionAdvanced: _session_advanced,
    SessionRestored: _session_restored,
    ValueSet: _value_set,
    ValueDeleted: _value_deleted,
    Restarted: _restarted,
    PeerNamed: lambda tables, index, record, data: peer_table.put(tables, index, record, data),
    CellFounded: lambda tables, index, record, data: cell_identity.put(tables, index, data),
    CallsOpened: lambda tables, index, record, data: calls.open_session(
        tables, record.session, record.owner, record.subject
    ),
    CallsEnded: lambda tables, index, record, data: calls.end_session(tables, record.session),
    AnswerDropped: lambda tables, index, record, data: calls.drop_answer(
        tables, record.session, record.slot
    ),
    Answered: lambda tables, index, record, data: sessions.answer_of(
        tables, record.client, record.session, record.sequences
    ),
    RecordRejected: lambda tables, index, record, data: rejections.put(tables, record),
    EngineEnded: lambda tables, index, record, data: quarantine.engine_ended(tables, index, record),
    CaseRestored: lambda tables, index, record, data: quarantine.restored(tables, index, record),
    CaseReleased: lambda tables, index, record, data: quarantine.released(tables, record),
    SigningKeyAdded: lambda tables, index, record, data: tokens.key_added(tables, index, record),
    SigningKeyRetired: lambda tables, index, record, data: tokens.key_retired(tables, record),
    TokenIssued: lambda tables, index, record, data: tokens.issued(tables, index, record),
    MaintenanceSet: lambda tables, index, record, data: maintenance.put(
        tables, index, record, data
    ),
    TokenRevoked: lambda tables, index, record, data: tokens.revoked(tables, index, record),
}
assert {*_APPLY, Called} == set(get_args(Record))  # a record without a rule would be a hole
