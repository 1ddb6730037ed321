"""Goal: whatever bytes have committed, the fold does not raise, and peers do not differ.

Method: records that cannot be applied to this ledger, one of each sort; then hypothesis, which
spoils histories byte by byte, field by field and in their order. LMDB and the twin in memory must
end row for row alike, and so must a snapshot and a rebuild.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_model import histories

from ha_scheduler.ledger import encoding, rejections
from ha_scheduler.ledger import records as r
from ha_scheduler.ledger.admission import check, is_certain
from ha_scheduler.ledger.calls import pack_payload
from ha_scheduler.ledger.dump import dump, load
from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.rebuild import digest, rebuild
from ha_scheduler.ledger.tables import META, REJECTED, TABLES
from ha_scheduler.ledger.unfit import Reason, RejectedRecord, UnknownRecordError
from ha_scheduler.storage.lmdb_tables import LmdbTables
from ha_scheduler.storage.schema import TABLE_DBS
from tests.twins.tables import MemoryTables

GRAPH = (1 << 32) + 1
VALUE = encoding.encode(r.ValueSet("v", b"n", b"", 0, 0, 1))

LIFE: list[Any] = [
    r.TermStarted(1, "a"),
    r.ClientJoined("c", "s"),
    r.CallsOpened("s", "o"),
    r.BlobPart(1, 1, 0, b"loose"),
    r.BlobPart(1, 2, 0, b"owned"),
    r.GraphSubmitted(GRAPH, "c", "s", 1, b"", 2, 1),
    r.BlobPart(1, 3, 0, b"owned by a value"),
    r.ValueSet("v", b"n", b"", 3, 1, 1),
    r.BlobPart(1, 4, 0, b"junk for a payload"),
    r.BlobPart(1, 5, 0, pack_payload((VALUE, b"junk"), b"answer")),
]


def graph(number: int, blob: int = 0, parts: int = 0) -> r.GraphSubmitted:
    return r.GraphSubmitted(number, "c", "s", 2, b"" if parts else b"graph", blob, parts)


def value(blob: int, parts: int, term: int = 1) -> r.ValueSet:
    return r.ValueSet("v", b"n", b"", blob, parts, term)


def called(*changes: Any, blob: int = 0, parts: int = 0) -> r.Called:
    data = [change if isinstance(change, bytes) else encoding.encode(change) for change in changes]
    payload = b"" if parts else pack_payload(tuple(data), b"answer")
    return r.Called("s", 0, 1, payload, blob, parts, 1)


def nested(depth: int) -> r.Called:
    record = called(VALUE)
    for _ in range(depth):
        record = called(record)
    return record


REJECTIONS: dict[str, tuple[Any, Reason]] = {
    "no record": (b"\xc1", Reason.MALFORMED),
    "a record cut short": (encoding.encode(graph(GRAPH))[:-1], Reason.MALFORMED),
    "a client that is a number": (msgspec.msgpack.encode([14, 5, "s"]), Reason.MALFORMED),
    "a slot below zero": (
        msgspec.msgpack.encode([22, "s", -1, 1, b"\x92\x90\xc4\x00", 0, 0, 1]),
        Reason.MALFORMED,
    ),
    "a key that is too long": (
        encoding.encode(r.Desired(GRAPH, "c", (b"k" * (r.TASK_KEY_BYTES_MAX + 1),))),
        Reason.MALFORMED,
    ),
    "a client's name that is too long": (r.ClientJoined("c" * 5000, ""), Reason.MALFORMED),
    "ranges below the floor": (msgspec.msgpack.encode([20, "s", 5, [3, 4]]), Reason.MALFORMED),
    "a record that is too large": (
        r.Scattered("c", tuple(b"%d" % n + b"k" * 99_000 for n in range(8))),
        Reason.TOO_LARGE,
    ),
    "graph 0": (graph(0), Reason.MALFORMED),
    "a graph twice": (graph(GRAPH), Reason.GRAPH_KNOWN),
    "a graph whose blob is missing": (graph(GRAPH + 1, 99, 1), Reason.BLOB_INCOMPLETE),
    "a graph with a part more than its blob": (graph(GRAPH + 1, 1, 2), Reason.BLOB_INCOMPLETE),
    "a graph with the blob of another": (graph(GRAPH + 1, 2, 1), Reason.BLOB_INCOMPLETE),
    "a value whose blob is missing": (value(99, 1), Reason.BLOB_INCOMPLETE),
    "a value with the blob of a graph": (value(2, 1), Reason.BLOB_INCOMPLETE),
    "a value with its own former blob": (value(3, 1), Reason.BLOB_INCOMPLETE),
    "a value with a blob of another term": (value(1, 1, term=2), Reason.BLOB_INCOMPLETE),
    "a first part of an owned blob": (r.BlobPart(1, 2, 0, b"x"), Reason.PART_MISPLACED),
    "a later part of an owned blob": (r.BlobPart(1, 2, 1, b"x"), Reason.PART_MISPLACED),
    "a part twice": (r.BlobPart(1, 1, 0, b"x"), Reason.PART_MISPLACED),
    "a part after a gap": (r.BlobPart(1, 1, 2, b"x"), Reason.PART_MISPLACED),
    "a blob that begins with its second part": (r.BlobPart(1, 9, 1, b"x"), Reason.PART_MISPLACED),
    "a call whose blob is missing": (called(blob=99, parts=1), Reason.BLOB_INCOMPLETE),
    "a call whose blob has a part more": (called(blob=1, parts=3), Reason.BLOB_INCOMPLETE),
    "a call whose blob is junk": (called(blob=4, parts=1), Reason.PAYLOAD_UNUSABLE),
    "a call with one change in parts that is junk": (
        called(blob=5, parts=1),
        Reason.PAYLOAD_UNUSABLE,
    ),
    "a call whose second change is junk": (called(VALUE, b"junk"), Reason.PAYLOAD_UNUSABLE),
    "a call with a change of another kind": (
        called(VALUE, graph(GRAPH + 1)),
        Reason.PAYLOAD_UNUSABLE,
    ),
    "a call with a change of an unknown kind": (called(b"\x91\x7f"), Reason.PAYLOAD_UNUSABLE),
    "a call in a call in a call": (nested(200), Reason.PAYLOAD_UNUSABLE),
    "a call with a value without a blob": (called(VALUE, value(99, 1)), Reason.BLOB_INCOMPLETE),
    "a call with two values of one blob": (
        called(value(1, 1), r.ValueSet("v", b"m", b"", 1, 1, 1)),
        Reason.BLOB_INCOMPLETE,
    ),
}  # fmt: skip


def rows(tables: Any, *but: str) -> dict[str, list[tuple[bytes, bytes]]]:
    return {table: list(tables.scan(table)) for table in TABLES if table not in but}


def lived() -> MemoryTables:
    tables = MemoryTables()
    for index, record in enumerate(LIFE, 1):
        assert fold(tables, index, 1, encoding.encode(record)) is None
    return tables


@pytest.mark.parametrize("what", REJECTIONS)
def test_what_cannot_be_applied_is_passed_over_written_down_and_leaves_no_other_row(
    what: str,
) -> None:
    record, reason = REJECTIONS[what]
    data = record if isinstance(record, bytes) else encoding.encode(record)
    tables, before = lived(), rows(lived(), META, REJECTED)
    rejected = fold(tables, 50, 1, data)
    assert rejected is not None
    assert (rejected.index, rejected.term, rejected.size) == (50, 1, len(data))
    assert rejected.reason == reason
    assert rows(tables, META, REJECTED) == before
    assert rejections.scan(tables) == [rejected]
    assert "record 50 of term 1 (" in rejections.describe(rejected)
    assert fold(tables, 51, 1, encoding.encode(r.GraphsRetired((GRAPH,)))) is None


@pytest.mark.parametrize("what", REJECTIONS)
def test_what_a_record_shows_by_itself_is_refused_before_it_enters_the_log(what: str) -> None:
    record, reason = REJECTIONS[what]
    data = record if isinstance(record, bytes) else encoding.encode(record)
    by_itself = reason in (Reason.MALFORMED, Reason.TOO_LARGE)
    if by_itself or (reason is Reason.PAYLOAD_UNUSABLE and not getattr(record, "blob_parts", 0)):
        with pytest.raises(RejectedRecord):
            check(data)
    else:
        check(data)


def test_of_many_rejections_the_latest_are_kept_and_all_are_counted() -> None:
    tables = MemoryTables()
    many = 2 * rejections.REJECTED_MAX + 7
    for index in range(1, many + 1):
        fold(tables, index, 1, b"junk")
    kept = rejections.scan(tables)
    assert [row.count for row in kept] == list(range(many - rejections.REJECTED_MAX + 1, many + 1))
    assert kept[-1].index == many
    again = MemoryTables()
    for index, data in enumerate(rebuild(tables), 1):
        fold(again, index, 1, data)
    assert rows(again) == rows(tables)
    in_memory = rejections.Rejections()
    for row in map(encoding.decode, rebuild(tables)):
        assert isinstance(row, r.RecordRejected)
        in_memory.add(row)
    assert in_memory.count == many
    assert in_memory.latest == tuple(kept)
    assert in_memory.knows_all_after(kept[0].index)
    assert not in_memory.knows_all_after(kept[0].index - 1)


def test_a_count_that_a_log_has_forged_does_not_run_over() -> None:
    tables = MemoryTables()
    last = 2**63 - 1
    fold(tables, 1, 1, encoding.encode(r.RecordRejected(last, 1, 1, 1, 1, b"", "forged")))
    for index in (2, 3):
        rejected = fold(tables, index, 1, b"junk")
        assert rejected is not None
        assert rejected.count == last


def test_loose_parts_of_a_ledger_of_format_1_are_counted_from_their_rows() -> None:
    tables = lived()
    for key in tables.keys("loose_blobs"):
        tables.put("loose_blobs", key, b"")
    assert fold(tables, 50, 1, encoding.encode(r.BlobPart(1, 1, 1, b"next"))) is None
    assert fold(tables, 51, 1, encoding.encode(graph(GRAPH + 1, 1, 2))) is None


# Whatever bytes


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any, Path]]:
    path = tmp_path_factory.mktemp("ledger")
    env = lmdb.open(str(path), max_dbs=64, map_size=1 << 30, sync=False, lib_version=0)
    dbs = {table: env.open_db(name) for table, name in TABLE_DBS.items()}
    yield env, dbs, path
    env.close()


@contextmanager
def scratch(environment: tuple[Any, Any, Path]) -> Iterator[LmdbTables]:
    """Empty tables of LMDB, in a transaction that is given up."""
    env, dbs, path = environment
    txn = env.begin(write=True)
    try:
        yield LmdbTables(txn, dbs, path, writable=True)
    finally:
        txn.abort()


@st.composite
def spoilt(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes of a record, in which something has been changed."""
    how = draw(st.sampled_from(("byte", "cut", "field", "number", "junk")))
    if how == "junk":
        return draw(st.binary(max_size=40))
    if how == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if how == "byte":
        at = draw(st.integers(0, len(data) - 1))
        return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    fields = msgspec.msgpack.decode(data)
    at = draw(st.integers(1, max(1, len(fields) - 1)))
    small = st.integers(-1, 9) | st.sampled_from((2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1))
    odd = small if how == "number" else small | st.text(max_size=3) | st.binary(max_size=3)
    value = draw(odd | st.lists(odd, max_size=3) if how == "field" else odd)
    return bytes(msgspec.msgpack.encode([*fields[:at], value, *fields[at + 1 :]]))


@st.composite
def committed(draw: st.DrawFn) -> list[bytes]:
    """A log that no leader of this release writes: records spoilt, repeated, lost and moved."""
    log = [encoding.encode(record) for record in draw(histories(max_size=25))]
    sound = set(log)
    for _ in range(draw(st.integers(1, 12))):
        at = draw(st.integers(0, len(log) - 1))
        how = draw(st.sampled_from(("spoil", "spoil", "spoil", "repeat", "lose", "move")))
        if how == "spoil" and log[at] in sound:
            log[at] = draw(spoilt(log[at]))
        elif how == "repeat":
            log.insert(draw(st.integers(0, len(log))), log[at])
        elif how == "move":
            log.insert(draw(st.integers(0, len(log) - 1)), log.pop(at))
        elif len(log) > 1:
            del log[at]
    return log


def applied(tables: Any, log: list[bytes]) -> int:
    """Fold until a record of a newer release stops this peer. Returns how many were rejected.

    None of them had been called certain, and told before the fold.
    """
    rejected = 0
    for index, data in enumerate(log, 1):
        try:
            refused = fold(tables, index, 1, data) is not None
            assert not (refused and is_certain(data))
            rejected += refused
        except UnknownRecordError:
            break
    return rejected


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(log=committed())
def test_any_committed_bytes_lead_every_peer_to_the_same_ledger(
    environment: tuple[Any, Any, Path], log: list[bytes]
) -> None:
    memory, snapshot, again = MemoryTables(), MemoryTables(), MemoryTables()
    rejected = applied(memory, log)
    with scratch(environment) as disk:
        assert applied(disk, log) == rejected
        assert rows(disk) == rows(memory)
        load(dump(disk), snapshot)
        assert rows(snapshot) == rows(memory)
    rebuilt = list(rebuild(memory))
    assert applied(again, rebuilt) == 0, "a rebuild holds nothing that cannot be applied"
    assert [row.count for row in rejections.scan(again)][-1:] == [rejected] * bool(rejected)
    departures = encoding.encode(r.ClientLeft("c"))[:2]  # of which nothing older is left
    told, retold = (
        [data for data in told if data[:2] != departures] for told in (rebuilt, rebuild(again))
    )
    assert retold == told
    assert digest(snapshot) == digest(memory)
