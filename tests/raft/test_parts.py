"""The small parts by themselves, against slower and more obvious definitions."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_scheduler.raft.errors import CompactedError, InvariantViolationError, UnavailableError
from ha_scheduler.raft.log import RaftLog
from ha_scheduler.raft.membership import MembershipHistory, encode_membership
from ha_scheduler.raft.messages import Entry, EntryKind, HardState, Membership, SnapshotMeta
from ha_scheduler.raft.progress import Inflights, Progress, ProgressState
from ha_scheduler.raft.quorum import VoteResult, agreed_value, majority, vote_result
from ha_scheduler.raft.storage import limit_size
from tests.twins.log import MemoryLog

voter_sets = st.sets(st.integers(1, 9), min_size=1, max_size=7)


@given(voter_sets, st.dictionaries(st.integers(1, 9), st.integers(0, 6)))
def test_the_agreed_value_is_the_best_any_majority_has_reached(
    voters: set[int], values: dict[int, int]
) -> None:
    quorums = combinations(voters, majority(len(voters)))
    best = max(min(values.get(voter, 0) for voter in quorum) for quorum in quorums)
    assert agreed_value(voters, values) == best


@given(voter_sets, st.dictionaries(st.integers(1, 9), st.booleans()))
def test_a_vote_is_decided_when_no_missing_vote_could_change_it(
    voters: set[int], votes: dict[int, bool]
) -> None:
    granted = sum(votes.get(voter, False) for voter in voters)
    possible = sum(votes.get(voter, True) for voter in voters)
    expected = VoteResult.PENDING
    if granted > len(voters) / 2:
        expected = VoteResult.WON
    elif possible <= len(voters) / 2:
        expected = VoteResult.LOST
    assert vote_result(voters, votes) is expected


@given(voter_sets, st.integers(1, 9))
def test_majorities_of_sets_that_differ_by_one_voter_share_a_voter(
    voters: set[int], changed: int
) -> None:
    """4.1: why one peer at a time is safe."""
    after = voters ^ {changed}
    for old in combinations(voters, majority(len(voters))):
        for new in combinations(after, majority(len(after))):
            assert not after or set(old) & set(new)


def progress(match: int = 0, next_index: int = 10) -> Progress:
    found = Progress(next_index, Inflights(4, 1000))
    found.accepted(match)
    return found


def test_a_rejection_moves_a_probe_back_but_never_below_what_is_certain() -> None:
    probe = progress(match=5)
    assert probe.rejected(9, hint=2)
    assert probe.next == 6


def test_an_old_rejection_does_not_move_a_probe() -> None:
    probe = progress()
    assert not probe.rejected(4, hint=2)
    assert probe.next == 10


def test_an_old_rejection_does_not_stop_a_pipeline() -> None:
    follower = progress(match=5)
    follower.become_replicate()
    assert not follower.rejected(5, hint=2)
    assert follower.state is ProgressState.REPLICATE


def test_after_a_snapshot_the_probe_starts_behind_it() -> None:
    follower = progress()
    follower.become_snapshot(20)
    assert follower.paused
    follower.become_probe()
    assert follower.next == 21


def test_impossible_progress_is_reported() -> None:
    follower = progress(match=5)
    with pytest.raises(InvariantViolationError):
        follower.check_invariants(last_index=4)


def entry(index: int, term: int = 1, size: int = 0) -> Entry:
    return Entry(term, index, EntryKind.NORMAL, b"x" * size)


@given(st.lists(st.integers(0, 100), max_size=10), st.integers(0, 500))
def test_a_size_limit_keeps_the_longest_prefix_but_never_nothing(
    sizes: list[int], limit: int
) -> None:
    entries = [entry(index, size=size) for index, size in enumerate(sizes)]
    kept = limit_size(entries, limit)
    assert kept == entries[: len(kept)]
    assert bool(kept) is bool(entries)
    if len(kept) < len(entries):
        assert sum(len(e.data) + 32 for e in entries[: len(kept) + 1]) > limit


def memory_log() -> MemoryLog:
    log = MemoryLog(Membership((1,)))
    log.append([entry(1), entry(2), entry(3, term=2)])
    return log


def test_the_memory_log_knows_the_term_at_its_compaction_point() -> None:
    log = memory_log()
    log.record_applied(3, Membership((1,)))
    log.compact(2)
    assert (log.first_index(), log.last_index(), log.term(2), log.term(3)) == (3, 3, 1, 2)
    with pytest.raises(CompactedError):
        log.term(1)
    with pytest.raises(CompactedError):
        log.entries(2, 3, 100)
    with pytest.raises(UnavailableError):
        log.term(4)
    with pytest.raises(UnavailableError):
        log.entries(3, 5, 100)


def test_the_memory_log_replaces_a_suffix_and_refuses_a_gap() -> None:
    log = memory_log()
    log.append([entry(2, term=3)])
    assert [log.term(i) for i in (1, 2)] == [1, 3]
    with pytest.raises(UnavailableError):
        log.append([entry(9)])
    log.truncate(2)
    assert log.last_index() == 1


def test_the_memory_log_takes_a_snapshot_in_place_of_everything() -> None:
    log = memory_log()
    meta = SnapshotMeta(9, 4, Membership((1, 2)))
    log.install_snapshot(meta)
    log.set_hard_state(HardState(4, 0, 9))
    assert (log.first_index(), log.last_index(), log.term(9), log.applied) == (10, 9, 4, 9)
    assert log.snapshot() == meta
    assert log.initial_state() == (HardState(4, 0, 9), Membership((1, 2)))


@given(st.lists(st.integers(1, 5)).map(sorted), st.integers(0, 4), st.data())
def test_the_last_index_not_after_a_term_is_found_as_by_walking_back(
    terms: list[int], compacted: int, data: st.DataObject
) -> None:
    """3.5, last paragraphs."""
    log = MemoryLog(Membership((1,)))
    log.append([entry(i, term=t) for i, t in enumerate(terms, start=1)])
    log.record_applied(min(compacted, len(terms)), Membership((1,)))
    log.compact(min(compacted, len(terms)))
    raft_log = RaftLog(log, commit=0, applied=0, apply_unpersisted=False, max_applying_bytes=1)
    index, term = data.draw(st.integers(0, len(terms) + 2)), data.draw(st.integers(1, 6))

    def walk(at: int) -> tuple[int, int]:
        try:
            found = log.term(at)
        except (CompactedError, UnavailableError):
            return at, 0
        return (at, found) if found <= term else walk(at - 1)

    assert raft_log.last_index_not_after_term(index, term) == walk(index)


def test_the_history_of_memberships_follows_the_log_back_to_what_is_committed() -> None:
    history = MembershipHistory(0, Membership((1,)))
    for index, voters in ((3, (1, 2)), (5, (1, 2, 3))):
        data = encode_membership(Membership(voters))
        assert history.append((Entry(1, index, EntryKind.CONF_CHANGE, data),))
    assert history.at(4) == Membership((1, 2))
    history.forget(4)
    assert history.truncate(4)
    assert history.current == Membership((1, 2))
    assert not history.truncate(1)
