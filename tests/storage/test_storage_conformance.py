"""Goal: whatever implements ``PeerStore`` keeps the port's promises.

Method: one suite, run against LMDB in a temporary directory and against the twin in memory.
``reopen`` stands for the death of the process after the last completion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage_helpers import Caller, entries, entry, state, value

from ha_scheduler.ledger.dump import dump
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.rebuild import digest
from ha_scheduler.ledger.records import ValueSet
from ha_scheduler.ledger.tables import VALUES
from ha_scheduler.raft.errors import CompactedError, UnavailableError
from ha_scheduler.raft.membership import encode_membership
from ha_scheduler.raft.messages import Entry, EntryKind, Membership, SnapshotMeta
from ha_scheduler.storage.errors import StoreClosed
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.storage.port import PeerStore, SnapshotInstall
from tests.twins.store import MemoryStore
from tests.twins.tables import MemoryTables

NO_LIMIT = 1 << 40
THREE = Membership((1, 2, 3))


class Store(Protocol):
    """One store and its caller; ``reopen`` replaces the store by what a new process finds."""

    store: Any
    caller: Caller

    def reopen(self) -> PeerStore: ...

    def close(self) -> None: ...


class LmdbCase:
    def __init__(self, path: Path, recent_bytes_max: int = 1 << 20) -> None:
        self.path = path
        self.recent_bytes_max = recent_bytes_max
        self.caller = Caller()
        self.store = self._open(create=True)

    def _open(self, *, create: bool) -> LmdbStore:
        self.caller = Caller()
        return LmdbStore.open(
            self.path,
            cell="cell",
            peer="a",
            peer_id=7,
            create=create,
            on_durable=self.caller.on_durable,
            membership=THREE,
            reserve_bytes=0,
            recent_bytes_max=self.recent_bytes_max,
        )

    def reopen(self) -> PeerStore:
        self.store.close()
        self.store = self._open(create=False)
        return self.store

    def close(self) -> None:
        self.store.close()


class MemoryCase:
    def __init__(self, recent_bytes_max: int = 1 << 20) -> None:
        self.caller = Caller()
        self.store = MemoryStore(
            on_durable=self.caller.on_durable,
            membership=THREE,
            deferred=True,
            recent_bytes_max=recent_bytes_max,
        )

    def reopen(self) -> PeerStore:
        self.caller = Caller()
        self.store = self.store.crash(self.caller.on_durable)
        return self.store

    def close(self) -> None:
        self.store.close()


@pytest.fixture(params=["lmdb", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    made: list[Store] = []

    def build(recent_bytes_max: int = 1 << 20) -> Store:
        case: Store
        if request.param == "lmdb":
            case = LmdbCase(tmp_path / f"data-{len(made)}", recent_bytes_max)
        else:
            case = MemoryCase(recent_bytes_max)
        made.append(case)
        return case

    yield build
    for case in made:
        case.close()


@pytest.fixture
def case(make: Callable[..., Store]) -> Store:
    return make()


def now_and_after_a_restart(case: Store) -> Iterator[PeerStore]:
    yield case.store
    yield case.reopen()


def read(store: PeerStore) -> list[tuple[int, int, bytes]]:
    first, last = store.first_index(), store.last_index()
    found = store.entries(first, last + 1, NO_LIMIT) if last >= first else ()
    return [(e.index, e.term, e.data) for e in found]


def log_of(*parts: tuple[Entry, ...]) -> list[tuple[int, int, bytes]]:
    return [(e.index, e.term, e.data) for part in parts for e in part]


def test_committed_bytes_that_no_ledger_can_apply_end_nothing(case: Store) -> None:
    without_parts = encode(ValueSet("space", b"n", b"", 7, 1, 1))
    log = (
        entry(1, data=b"junk"),
        entry(2, data=value(b"before")),
        entry(3, data=without_parts),
        entry(4, data=value(b"after")),
    )
    case.caller.write(case.store, entries=log, apply=log)
    for store in now_and_after_a_restart(case):
        assert store.applied() == 4
        assert [row.index for row in store.rejections().latest] == [1, 3]
        with store.view() as view:
            assert len(list(view.tables.scan(VALUES))) == 2


def test_rejections_are_seen_when_settled_and_not_before(case: Store) -> None:
    number = case.caller.submit(
        case.store, entries=(entry(1, data=b"x"),), apply=(entry(1, data=b"x"),)
    )
    if isinstance(case.store, MemoryStore):
        case.store.flush()
    assert case.caller.wait(number) is None
    assert case.store.rejections().count == 0
    case.store.settle(number)
    assert case.store.rejections().count == 1


def test_the_rejections_of_a_snapshot_replace_those_of_before(make: Callable[..., Store]) -> None:
    sender, receiver = make(), make()
    theirs = (entry(1, data=b"one"), entry(2, data=b"two"))
    sender.caller.write(sender.store, entries=theirs, apply=theirs)
    own = (entry(1, data=b"own"),)
    receiver.caller.write(receiver.store, entries=own, apply=own)
    with sender.store.view() as view:
        chunks, seen = list(dump(view.tables)), digest(view.tables)
    meta = SnapshotMeta(2, 1, THREE)
    receiver.caller.write(receiver.store, snapshot=SnapshotInstall(meta, chunks))
    for store in now_and_after_a_restart(receiver):
        assert store.rejections().latest == sender.store.rejections().latest
        with store.view() as view:
            assert digest(view.tables) == seen


def test_a_new_store_is_empty_and_knows_its_membership(case: Store) -> None:
    assert case.store.initial_state() == (state(0), THREE)
    assert (case.store.first_index(), case.store.last_index()) == (1, 0)
    assert case.store.applied() == 0
    assert case.store.term(0) == 0
    assert case.store.snapshot() == SnapshotMeta(0, 0, THREE)


def test_what_was_written_is_there_after_a_restart(case: Store) -> None:
    case.caller.write(case.store, hard_state=state(2, 3, 1), entries=entries(1, 3))
    for store in now_and_after_a_restart(case):
        assert store.initial_state()[0] == state(2, 3, 1)
        assert read(store) == log_of(entries(1, 3))


def test_nothing_is_visible_before_it_is_settled(case: Store) -> None:
    number = case.caller.submit(case.store, entries=entries(1, 3), hard_state=state(1))
    if isinstance(case.store, MemoryStore):
        case.store.flush()
    assert case.caller.wait(number) is None
    assert case.store.last_index() == 0
    assert case.store.initial_state()[0] == state(0)
    case.store.settle(number)
    assert case.store.last_index() == 3


def test_completions_come_in_the_order_of_submission(case: Store) -> None:
    for n in range(1, 51):
        case.caller.submit(case.store, entries=entries(n, n))
    if isinstance(case.store, MemoryStore):
        case.store.flush()
    case.caller.wait(50)
    assert case.caller.done == [(n, None) for n in range(1, 51)]


def test_entries_replace_the_suffix_from_their_first_index_on(case: Store) -> None:
    case.caller.write(case.store, entries=entries(1, 6))
    case.caller.write(case.store, entries=entries(4, 5, term=2))
    for store in now_and_after_a_restart(case):
        assert read(store) == log_of(entries(1, 3), entries(4, 5, term=2))
        assert [store.term(n) for n in range(1, 6)] == [1, 1, 1, 2, 2]


def test_a_log_replaced_from_its_beginning_reads_back(case: Store) -> None:
    case.caller.write(case.store, entries=entries(1, 3))
    case.caller.write(case.store, entries=entries(1, 1, term=2))
    case.caller.write(case.store, entries=entries(2, 2, term=2))
    assert read(case.reopen()) == log_of(entries(1, 2, term=2))


def test_indices_outside_the_log_are_refused_by_name(case: Store) -> None:
    case.caller.write(case.store, entries=entries(1, 5))
    case.caller.write(case.store, apply=entries(1, 3), applied_index=3, compact_to=2)
    with pytest.raises(CompactedError):
        case.store.term(1)
    with pytest.raises(CompactedError):
        case.store.entries(2, 4, NO_LIMIT)
    with pytest.raises(UnavailableError):
        case.store.term(6)
    with pytest.raises(UnavailableError):
        case.store.entries(3, 7, NO_LIMIT)


def test_a_read_is_cut_to_its_bytes_but_brings_one_entry(case: Store) -> None:
    case.caller.write(case.store, entries=entries(1, 5, size=100))
    one = len(entries(1, 1, size=100)[0].data) + 32
    assert [e.index for e in case.store.entries(1, 6, 3 * one)] == [1, 2, 3]
    assert [e.index for e in case.store.entries(2, 6, 1)] == [2]


def test_entries_that_are_not_in_memory_any_more_are_read_back(
    make: Callable[..., Store],
) -> None:
    case = make(recent_bytes_max=400)
    case.caller.write(case.store, entries=entries(1, 20, size=50))
    assert read(case.store) == log_of(entries(1, 20, size=50))
    assert [e.index for e in case.store.entries(3, 7, NO_LIMIT)] == [3, 4, 5, 6]
    assert [e.index for e in case.store.entries(15, 21, 1)] == [15]


def test_compaction_keeps_the_term_before_the_first_entry(case: Store) -> None:
    case.caller.write(case.store, entries=(*entries(1, 3), *entries(4, 6, term=2)))
    case.caller.write(case.store, apply=case.store.entries(1, 6, NO_LIMIT), compact_to=4)
    for store in now_and_after_a_restart(case):
        assert (store.first_index(), store.last_index(), store.term(4)) == (5, 6, 2)
        assert read(store) == log_of(entries(5, 6, term=2))


def test_a_log_compacted_to_its_end_goes_on(case: Store) -> None:
    case.caller.write(case.store, entries=entries(1, 3))
    case.caller.write(case.store, apply=entries(1, 3), compact_to=3)
    case.caller.write(case.store, entries=entries(4, 4, term=2))
    store = case.reopen()
    assert (store.first_index(), store.last_index()) == (4, 4)
    assert (store.term(3), store.term(4)) == (1, 2)


def test_applied_entries_are_in_the_ledger_together_with_the_applied_index(case: Store) -> None:
    committed = (entry(1), entry(2, data=value(b"a")), entry(3, data=value(b"b")))
    case.caller.write(case.store, entries=committed)
    case.caller.write(case.store, apply=committed, applied_index=3)
    for store in now_and_after_a_restart(case):
        assert store.applied() == 3
        with store.view() as view:
            assert view.applied == 3
            assert len(list(view.tables.scan(VALUES))) == 2


def test_a_view_does_not_change_while_it_is_held(case: Store) -> None:
    first, second = entry(1, data=value(b"a")), entry(2, data=value(b"b"))
    case.caller.write(case.store, entries=(first,), apply=(first,))
    with case.store.view() as view:
        case.caller.write(case.store, entries=(second,), apply=(second,))
        assert view.applied == 1
        assert len(list(view.tables.scan(VALUES))) == 1


def test_an_applied_membership_is_in_force_and_in_the_snapshot(case: Store) -> None:
    grown = Membership((1, 2, 3), (4,))
    change = Entry(1, 1, EntryKind.CONF_CHANGE, encode_membership(grown, b"context"))
    case.caller.write(case.store, entries=(change,))
    assert case.store.initial_state()[1] == THREE
    case.caller.write(case.store, apply=(change,))
    for store in now_and_after_a_restart(case):
        assert store.initial_state()[1] == grown
        assert store.snapshot() == SnapshotMeta(1, 1, grown)


def test_a_snapshot_replaces_log_and_ledger_at_once(make: Callable[..., Store]) -> None:
    source, target = make(), make()
    committed = tuple(entry(n, 2, value(b"%d" % n)) for n in range(1, 30))
    source.caller.write(source.store, entries=committed, apply=committed)
    target.caller.write(target.store, entries=entries(1, 3), apply=entries(1, 2))
    with source.store.view() as view:
        chunks, expected = list(dump(view.tables)), digest(view.tables)
        meta = view.meta
    install = SnapshotInstall(meta, chunks)
    target.caller.write(target.store, snapshot=install, hard_state=state(2, 0, 29))
    target.caller.write(target.store, entries=entries(30, 31, term=3))
    for store in now_and_after_a_restart(target):
        assert (store.first_index(), store.last_index(), store.applied()) == (30, 31, 29)
        assert (store.term(29), store.term(30)) == (2, 3)
        assert store.snapshot() == meta
        with store.view() as view:
            assert digest(view.tables) == expected


def test_a_batch_that_could_not_be_folded_ends_the_writing(case: Store) -> None:
    bad = entry(1, data=b"\x91\x7f")
    number = case.caller.submit(case.store, entries=(bad,), apply=(bad,))
    later = case.caller.submit(case.store, entries=entries(2, 2))
    if isinstance(case.store, MemoryStore):
        case.store.flush()
    assert "upgrade this peer" in str(case.caller.wait(number))
    assert case.caller.wait(later) is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"entries": entries(5, 5)},
        {"entries": (*entries(3, 3), *entries(5, 5))},
        {"entries": entries(1, 1)},
        {"entries": (entry(3, data=b"x" * (1024 * 1024 + 1)),)},
        {"apply": entries(3, 3)},
        {"apply": entries(2, 2), "applied_index": 7},
        {"compact_to": 2},
    ],
    ids=["gap", "hole", "applied", "large", "not-there", "wrong-index", "compact-unapplied"],
)
def test_a_batch_that_no_correct_caller_submits_is_refused_at_once(
    case: Store, fields: dict[str, Any]
) -> None:
    case.caller.write(case.store, entries=entries(1, 2), apply=entries(1, 1))
    with pytest.raises(AssertionError):
        case.caller.submit(case.store, **fields)


def test_a_closed_store_takes_nothing_more(case: Store) -> None:
    number = case.caller.submit(case.store, entries=entries(1, 1))
    case.store.close()
    assert case.caller.wait(number) is None
    with pytest.raises(StoreClosed):
        case.caller.submit(case.store, entries=entries(2, 2))
    case.store.close()


_ops = st.lists(
    st.tuples(
        st.sampled_from(["append", "replace", "apply", "compact", "reopen"]), st.integers(0, 5)
    ),
    max_size=12,
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ops=_ops)
def test_any_sequence_of_writes_reads_back_like_a_list(
    make: Callable[..., Store], ops: list[tuple[str, int]]
) -> None:
    case = make(recent_bytes_max=200)
    log: list[Entry] = []
    applied = compacted = 0
    term = 1
    for op, n in ops:
        if op in ("append", "replace"):
            term += op == "replace"
            first = len(log) + 1 if op == "append" else max(applied + 1, len(log) + 1 - n)
            added = entries(first, first + n, term)
            log[first - 1 :] = added
            case.caller.write(case.store, entries=added)
        elif op == "apply":
            upto = min(len(log), applied + n)
            case.caller.write(case.store, apply=tuple(log[applied:upto]))
            applied = upto
        elif op == "compact":
            compacted = max(compacted, applied - n)
            case.caller.write(case.store, compact_to=compacted)
        else:
            case.reopen()
        assert case.store.first_index() == compacted + 1
        assert read(case.store) == log_of(tuple(log[compacted:]))
        assert case.store.applied() == applied


def test_the_tables_of_a_store_scan_like_the_twin(case: Store) -> None:
    names = [b"%d" % n for n in range(20)]
    committed = tuple(entry(n, data=value(name)) for n, name in enumerate(names, start=1))
    case.caller.write(case.store, entries=committed, apply=committed)
    twin = MemoryTables()
    with case.store.view() as view:
        for key, row in view.tables.scan(VALUES):
            twin.put(VALUES, key, row)
        prefix = next(view.tables.keys(VALUES))[:16]
        assert list(view.tables.scan(VALUES, prefix)) == list(twin.scan(VALUES, prefix))
        assert list(view.tables.keys(VALUES, b"\xff" * 40)) == []
