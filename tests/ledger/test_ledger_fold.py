"""Goal: the fold means what the records say, and rebuild loses none of it.

Method: hypothesis writes histories as leaders might; a naive model (``ledger_model``) says what
they mean; fold, rebuild and dump must agree with it and with one another.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from ledger_model import CONTENTS, KINDS, NAMES, SPACES, histories, model_of, whole
from ledger_model import SESSIONS as CLIENT_SESSIONS

from ha_scheduler.ledger import cell_identity, desires, encoding, peer_table, runs
from ha_scheduler.ledger import records as r
from ha_scheduler.ledger.authorship import AUTHORS, Author
from ha_scheduler.ledger.calls import DROPPED, INLINE_BYTES_MAX, Calls, pack_payload
from ha_scheduler.ledger.dump import SnapshotDamagedError, dump, load
from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.rebuild import rebuild
from ha_scheduler.ledger.sessions import Sessions, load_answers
from ha_scheduler.ledger.tables import (
    BLOB_PARTS,
    CALLS,
    CELL,
    EVENTS,
    MAINTENANCE,
    PEERS,
    REVOKED,
    SESSIONS,
    SIGNING_KEYS,
    TABLES,
    TOKENS,
    VALUES,
)
from ha_scheduler.ledger.unfit import UnknownRecordError
from tests.twins.tables import MemoryTables

SETTINGS = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
GRAPH = (1 << 32) | 1


def folded(history: list[Any]) -> MemoryTables:
    tables = MemoryTables()
    for index, record in enumerate(history, start=1):
        fold(tables, index, 1, encoding.encode(record))
    return tables


def rebuilt(tables: MemoryTables) -> list[Any]:
    return [encoding.decode(data) for data in rebuild(tables)]


def graph(number: int = 1, session: str = "", sequence: int = 0) -> r.GraphSubmitted:
    return r.GraphSubmitted((1 << 32) | number, "alice", session, sequence, b"payload", 0, 0)


def rows(tables: MemoryTables) -> dict[str, list[tuple[bytes, bytes]]]:
    return {table: list(tables.scan(table)) for table in TABLES}


def test_every_record_of_the_log_is_in_histories() -> None:
    assert set(KINDS) == {kind for kind in AUTHORS if AUTHORS[kind] is not Author.REBUILD}


@SETTINGS
@given(histories())
def test_the_fold_and_the_model_agree_on_every_history(history: list[Any]) -> None:
    tables = folded(history)
    assert model_of(rebuilt(tables)).meaning() == model_of(history).meaning()


@SETTINGS
@given(histories())
def test_folding_a_rebuild_yields_the_same_rebuild(history: list[Any]) -> None:
    """But for departures of which nothing older is left: only the second fold can tell."""
    first = rebuilt(folded(history))
    second = rebuilt(folded(first))
    assert [rec for rec in second if not isinstance(rec, r.ClientLeft)] == [
        rec for rec in first if not isinstance(rec, r.ClientLeft)
    ]
    assert model_of(second).meaning() == model_of(history).meaning()


@SETTINGS
@given(histories())
def test_a_loaded_dump_is_the_ledger_row_for_row(history: list[Any]) -> None:
    tables = folded(history)
    twin = folded([graph(9), r.Desired((1 << 32) | 9, "x", (b"k",))])
    load(dump(tables), twin)
    assert rows(twin) == rows(tables)


@SETTINGS
@given(histories(max_size=30), histories(max_size=30))
def test_a_rebuilt_ledger_goes_on_like_the_original(first: list[Any], more: list[Any]) -> None:
    # Blob and graph numbers of ``more`` would repeat those of ``first``; terms tell them apart.
    more = [record for record in more if not hasattr(record, "blob")]
    model = model_of(first)
    offset = model.term[0]
    shifted = [
        r.TermStarted(rec.term + offset, rec.leader) if isinstance(rec, r.TermStarted) else rec
        for rec in more
    ]
    tables = folded(first)
    again = folded(rebuilt(tables))
    for index, record in enumerate(shifted, start=10_000):
        fold(tables, index, 1, encoding.encode(record))
        fold(again, index, 1, encoding.encode(record))
    assert model_of(rebuilt(again)).meaning() == model_of(rebuilt(tables)).meaning()


def test_a_request_that_comes_after_its_client_has_left_revives_no_session() -> None:
    joined, left = r.ClientJoined("alice", "s1"), r.ClientLeft("alice")
    late = [graph(1, "s1", 1), r.Answered("alice", "s1", (2,))]
    history = [r.TermStarted(1, "a"), joined, left, *late]
    assert list(folded(history).scan(SESSIONS)) == []
    assert load_answers(folded([joined, *late]), "s1").last == 2
    live = Sessions()
    for record in history:
        live.apply(record)
    assert not live.answered("s1", 1)


@SETTINGS
@given(histories())
def test_the_engines_sessions_equal_those_of_the_fold(history: list[Any]) -> None:
    tables = folded(history)
    live, replayed = Sessions(), Sessions()
    for record in whole(history):
        live.apply(record)
    for record in whole(rebuilt(tables)):
        replayed.apply(record)
    assert replayed.calls == live.calls
    for session in ("s1", "s2"):
        for sequence in range(11):
            known = load_answers(tables, session).answered(sequence)
            assert live.answered(session, sequence) is known
            assert replayed.answered(session, sequence) is known


def test_a_graph_without_a_number_leaves_no_answers_of_its_session() -> None:
    history = [r.ClientJoined("alice", "s1"), graph(session="s1", sequence=0)]
    assert rows(folded(history))[SESSIONS] == []


@SETTINGS
@given(histories())
def test_after_everything_has_ended_no_row_is_left_behind(history: list[Any]) -> None:
    tables = folded(history)
    ends: list[Any] = [r.Restarted(), r.TermStarted(10_000, "p")]
    ends += [r.ClientLeft(rec.client) for rec in history if hasattr(rec, "client")]
    ends += [r.ValueDeleted(space, name) for space in SPACES for name in NAMES]
    ends += [r.CallsEnded(session) for session in CLIENT_SESSIONS]
    ends += [r.CaseReleased(content) for content in CONTENTS]
    for index, record in enumerate(ends, start=10_000):
        fold(tables, index, 1, encoding.encode(record))
    left = {table for table, found in rows(tables).items() if found}
    # Peers and orders stay for ever, as do sessions that no ClientJoined ever named; tokens go by
    # their time.
    assert left <= {"meta", SESSIONS, PEERS, CELL, MAINTENANCE, SIGNING_KEYS, TOKENS, REVOKED}


def peer_named(peer: int, name: str = "c", gone: str = "") -> r.PeerNamed:
    return r.PeerNamed(peer, peer, name, "h", 1, 2, False, gone)


def test_of_the_disks_that_are_gone_only_the_last_are_remembered() -> None:
    history = [peer_named(n, gone="was replaced") for n in range(1, peer_table.GONE_MAX + 11)]
    tables = folded([peer_named(9999), *history])
    known = [record.peer for record in peer_table.peers(tables)]
    assert known == [9999, *range(11, peer_table.GONE_MAX + 11)]


def test_a_record_of_a_peer_is_told_from_others_by_its_first_bytes() -> None:
    assert encoding.is_of_members(encoding.encode(peer_named(7)))
    assert not encoding.is_of_members(encoding.encode(r.ValueSet("x", b"", b"", 0, 0, 0)))
    assert not encoding.is_of_members(b"")


def test_the_empty_entry_of_raft_changes_nothing() -> None:
    tables = MemoryTables()
    fold(tables, 1, 1, b"")
    assert not any(rows(tables).values())


def test_a_record_of_a_newer_release_is_refused() -> None:
    with pytest.raises(UnknownRecordError, match="upgrade this peer"):
        fold(MemoryTables(), 1, 1, b"\x91\x7f")


def test_an_answered_request_is_recognised_after_its_graph_was_retired() -> None:
    tables = folded([r.ClientJoined("alice", "s"), graph(session="s", sequence=3)])
    fold(tables, 3, 1, encoding.encode(r.GraphsRetired((GRAPH,))))
    assert load_answers(tables, "s").answered(3)
    assert load_answers(folded(rebuilt(tables)), "s").answered(3)


def test_a_session_outlives_its_first_client_when_another_has_resumed_it() -> None:
    tables = folded(
        [
            r.ClientJoined("alice", "s"),
            graph(session="s", sequence=1),
            r.ClientJoined("alice-again", "s"),
            r.ClientLeft("alice"),
        ]
    )
    assert load_answers(tables, "s").answered(1)
    fold(tables, 5, 1, encoding.encode(r.ClientLeft("alice-again")))
    assert not load_answers(tables, "s").answered(1)


def test_a_graph_whose_session_was_dropped_does_not_revive_it_in_a_rebuild() -> None:
    tables = folded(
        [r.ClientJoined("alice", "s"), graph(session="s", sequence=1), r.ClientLeft("alice")]
    )
    assert not list(folded(rebuilt(tables)).scan(SESSIONS))


def test_a_blob_named_by_a_graph_survives_the_next_term_and_goes_with_the_graph() -> None:
    tables = folded(
        [
            r.BlobPart(1, 7, 0, b"a"),
            r.BlobPart(1, 7, 1, b"b"),
            r.GraphSubmitted(GRAPH, "alice", "", 0, b"", 7, 2),
            r.BlobPart(1, 8, 0, b"loose"),
            r.TermStarted(2, "p"),
        ]
    )
    assert [value for _, value in tables.scan(BLOB_PARTS)] == [b"a", b"b"]
    fold(tables, 6, 1, encoding.encode(r.GraphsRetired((GRAPH,))))
    assert not list(tables.scan(BLOB_PARTS))


def test_loose_parts_of_the_running_term_are_part_of_a_rebuild() -> None:
    tables = folded([r.TermStarted(1, "p"), r.BlobPart(1, 7, 0, b"a")])
    assert r.BlobPart(1, 7, 0, b"a") in rebuilt(tables)


def test_desires_and_releases_over_and_over_stay_small() -> None:
    steady = tuple(b"steady-%d" % n for n in range(100))
    flickering = (b"k" * 100,)
    history: list[Any] = [graph(), r.Desired(GRAPH, "variable-x", steady)]
    for _ in range(3000):
        history += [r.Desired(GRAPH, "variable-x", flickering)]
        history += [r.Released(GRAPH, "variable-x", flickering)]
    tables = folded(history)
    assert sum(len(value) for _, value in tables.scan(EVENTS)) <= 2 * desires.SLACK_BYTES
    assert model_of(rebuilt(tables)).meaning() == model_of(history).meaning()


def test_a_key_of_no_graph_leaves_no_row_when_nobody_wants_it_any_more() -> None:
    tables = folded(
        [
            r.Desired(0, "queue-1", (b"a", b"b")),
            r.Released(0, "queue-1", (b"a",)),
            r.Released(0, "queue-1", (b"b",)),
            r.Scattered("alice", (b"s",)),
            r.Desired(0, "queue-1", (b"s",)),
            r.ClientLeft("alice"),
            r.Released(0, "queue-1", (b"s",)),
            r.ScatteredForgotten((b"s",)),
        ]
    )
    assert not any(rows(tables).values())


def test_a_departure_is_replayed_as_long_as_what_it_ended() -> None:
    tables = folded([r.ClientJoined("alice", ""), graph(), r.ClientLeft("alice")])
    assert rebuilt(tables) == [graph(), r.ClientLeft("alice")]
    fold(tables, 4, 1, encoding.encode(r.GraphsRetired((GRAPH,))))
    assert rebuilt(tables) == []


def test_no_record_of_a_rebuild_is_over_the_limit() -> None:
    keys = tuple(b"%04d" % n + b"x" * 1000 for n in range(700))
    history: list[Any] = [graph()]
    for n in range(4):
        batch = tuple(b"%d" % n + key for key in keys)
        history += [r.Desired(GRAPH, "alice", batch), r.Scattered("alice", batch)]
    tables = folded(history)
    sizes = [len(data) for data in rebuild(tables)]
    assert max(sizes) <= r.RECORD_BYTES_MAX
    assert model_of(rebuilt(tables)).meaning() == model_of(history).meaning()


def test_a_value_with_a_new_blob_drops_the_former_one() -> None:
    def value(blob: int) -> r.ValueSet:
        return r.ValueSet("plugins", b"p", b"", blob, 1, 1)

    tables = folded([r.BlobPart(1, 1, 0, b"old"), value(1), r.BlobPart(1, 2, 0, b"new"), value(2)])
    assert [data for _, data in tables.scan(BLOB_PARTS)] == [b"new"]
    assert len(list(tables.scan(VALUES))) == 1


def called(sequence: int, answer: bytes, *changes: Any, session: str = "s") -> r.Called:
    payload = pack_payload(tuple(map(encoding.encode, changes)), answer)
    return r.Called(session, 0, sequence, payload, 0, 0, 1)


def live(history: list[Any]) -> Sessions:
    sessions = Sessions()
    for record in history:
        sessions.apply(record)
    return sessions


def test_a_call_and_its_answer_are_one_and_the_next_call_of_the_slot_replaces_the_answer() -> None:
    set_one = r.ValueSet("metadata", b"one", b"1", 0, 0, 1)
    history = [r.CallsOpened("s", "owner"), called(1, b"first", set_one), called(2, b"second")]
    tables = folded(history)
    assert len(list(tables.scan(VALUES))) == 1
    assert len(list(tables.scan(CALLS))) == 1
    for sessions in (live(history), live(rebuilt(tables))):
        answer = sessions.calls.answer("s", 0)
        assert answer is not None
        assert (answer.sequence, answer.data) == (2, b"second")


def test_answers_go_with_the_client_whose_session_it_is() -> None:
    history = [r.ClientJoined("alice", "owner"), r.CallsOpened("s", "owner"), called(1, b"x")]
    history += [r.ClientLeft("alice")]
    tables = folded(history)
    assert not any(rows(tables).values())
    assert "s" not in live(history).calls


def test_a_call_of_a_session_that_is_over_still_changes_what_it_changed() -> None:
    set_one = r.ValueSet("metadata", b"one", b"1", 0, 0, 1)
    tables = folded([r.CallsOpened("s", "owner"), r.CallsEnded("s"), called(1, b"x", set_one)])
    assert len(list(tables.scan(VALUES))) == 1
    assert not list(tables.scan(CALLS))


def test_a_long_answer_is_kept_in_parts_and_goes_with_the_next_call() -> None:
    answer = b"a" * (3 * INLINE_BYTES_MAX)
    payload = pack_payload((), answer)
    history = [r.CallsOpened("s", "owner")]
    history += [r.BlobPart(1, 7, 0, payload[:400_000]), r.BlobPart(1, 7, 1, payload[400_000:])]
    history += [r.Called("s", 0, 1, b"", 7, 2, 1)]
    tables = folded(history)
    assert max(len(data) for data in rebuild(tables)) <= r.RECORD_BYTES_MAX
    assert model_of(rebuilt(folded(rebuilt(tables)))).calls == {"s": {0: (1, answer)}}
    fold(tables, 9, 1, encoding.encode(called(2, b"short")))
    assert not list(tables.scan(BLOB_PARTS))


def test_the_oldest_large_answers_are_dropped_by_age_however_an_engine_learned_of_them() -> None:
    def answered(slot: int, size: int) -> r.Called:
        return r.Called("s", slot, 1, pack_payload((), b"x" * size), 0, 0, 1)

    sizes = [10_000, 10_000, 10, 10_000]
    history = [r.CallsOpened("s", "owner")]
    history += [answered(slot, size) for slot, size in zip((7, 1, 2, 3), sizes, strict=True)]
    tables = folded(history)
    for sessions in (live(history), live(rebuilt(tables))):
        assert sessions.calls.heavy_bytes == 30_000
        dropped = list(sessions.calls.excess(20_000))
        assert dropped == [r.AnswerDropped("s", 7)]
        assert list(sessions.calls.excess(0)) == [*dropped, r.AnswerDropped("s", 1)]
        sessions.apply(dropped[0])
        answer = sessions.calls.answer("s", 7)
        assert answer is not None
        assert (answer.sequence, answer.data) == (1, DROPPED)
        assert sessions.calls.heavy_bytes == 20_000
        sessions.apply(r.CallsEnded("s"))
        assert sessions.calls == Calls()


@pytest.mark.parametrize("damage", ["flip", "drop", "swap", "repeat", "cut"])
def test_a_damaged_stream_of_a_ledger_is_refused(damage: str) -> None:
    big = [r.BlobPart(1, n, 0, bytes([n]) * 200_000) for n in range(5)]
    chunks = list(dump(folded(big)))
    assert len(chunks) > 3
    if damage == "flip":
        chunks[1] = chunks[1][:100] + bytes([chunks[1][100] ^ 1]) + chunks[1][101:]
    elif damage == "drop":
        del chunks[1]
    elif damage == "swap":
        chunks[0], chunks[1] = chunks[1], chunks[0]
    elif damage == "repeat":
        chunks.insert(1, chunks[0])
    else:
        del chunks[-1]
    with pytest.raises(SnapshotDamagedError, match="again"):
        load(chunks, MemoryTables())


def test_a_rebuild_says_up_to_which_run_each_of_the_last_leaders_had_let_go() -> None:
    tables = MemoryTables()
    ids = [(term << 32) + 7 for term in range(1, runs.TERMS_MAX + 3)]
    for index, upto in enumerate(ids, start=1):
        fold(tables, index, 1, encoding.encode(r.Released(GRAPH, "c", (b"k",), upto - 1)))
        fold(tables, index, 1, encoding.encode(r.ClientLeft("c", upto)))
        fold(tables, index, 1, encoding.encode(r.GraphsRetired((GRAPH,), upto - 2)))
    told = [encoding.decode(data) for data in rebuild(tables)]
    assert told == [r.GraphsRetired((), upto) for upto in ids[-runs.TERMS_MAX :]]


def test_the_first_identity_of_a_cell_is_its_identity_for_ever() -> None:
    first, second = cell_identity.draw("a"), cell_identity.draw("b")
    assert first.cell != second.cell
    tables = folded([first, second])
    assert cell_identity.load(tables) == first


def test_a_cell_founded_from_a_ledger_is_another_one_and_names_its_predecessor() -> None:
    first = cell_identity.draw("a")
    tables = folded([first, peer_named(7)])
    successor = cell_identity.found_anew(tables, 9, "b")
    assert successor.predecessor == first.cell != successor.cell
    assert cell_identity.load(tables) == successor
    again = folded(map(encoding.decode, rebuild(tables)))
    assert cell_identity.load(again) == successor
