"""Chapter 3.5, 3.6.2 and 10.2 (replication, commitment, pipelining), sentence by sentence."""

from __future__ import annotations

import random

import pytest

from ha_scheduler.raft.config import Config
from ha_scheduler.raft.errors import (
    InvariantViolationError,
    LogCorruptionError,
    MalformedMessageError,
)
from ha_scheduler.raft.messages import Entry, EntryKind, HardState, Membership, Message, MessageKind
from ha_scheduler.raft.node import RawNode
from tests.twins.log import MemoryLog

from .harness import TICKS, Cell, log_of
from .nodes import FIVE, THREE, accept, append, entry, follower, leader_of, persist


def test_a_new_leader_first_appends_an_empty_entry_of_its_term() -> None:
    """6.4."""
    node = leader_of(log_of([1, 2], THREE, term=2))
    assert node.ready().entries == (Entry(3, 3, EntryKind.NORMAL, b""),)


def test_an_entry_is_committed_once_a_majority_stores_it() -> None:
    """3.5."""
    log = MemoryLog(FIVE)
    node = leader_of(log)
    persist(log, node, node.ready())
    accept(node, 2, 1)
    assert node.commit == 0
    accept(node, 3, 1)
    assert node.commit == 1


def test_the_leader_does_not_count_itself_before_its_own_disk_is_done() -> None:
    """10.2.1: it may even commit before, if a majority of others has the entry."""
    log = MemoryLog(THREE)
    node = leader_of(log)
    ready = node.ready()
    accept(node, 2, 1)
    assert node.commit == 0
    persist(log, node, ready)
    assert node.commit == 1


def test_followers_may_commit_what_the_leader_has_not_yet_stored() -> None:
    """10.2.1; but without `apply_unpersisted` it does not apply it before it is durable here."""
    log = MemoryLog(THREE)
    node = leader_of(log, apply_unpersisted=False)
    ready = node.ready()
    accept(node, 2, 1)
    accept(node, 3, 1)
    assert node.commit == 1
    assert node.ready().committed == ()
    persist(log, node, ready)
    assert [e.index for e in node.ready().committed] == [1]


def test_entries_of_older_terms_are_not_committed_by_counting() -> None:
    """3.6.2, figure 8: only together with an entry of the leader's own term."""
    log = log_of([1, 2], FIVE, term=3)
    node = leader_of(log)
    persist(log, node, node.ready())
    for peer in (2, 3, 4):
        accept(node, peer, 2)
    assert node.commit == 0
    accept(node, 2, 3)
    accept(node, 3, 3)
    assert node.commit == 3


def test_a_follower_rejects_an_append_whose_predecessor_it_lacks() -> None:
    """3.5, the consistency check."""
    node = follower(log_of([1], THREE, term=1))
    node.step(append(2, 5, 2, entry(2, 6)))
    (answer,) = node.ready().messages_after_persist
    assert (answer.reject, answer.index, answer.reject_hint, answer.log_term) == (True, 5, 1, 1)


def test_a_follower_deletes_a_conflicting_entry_and_all_that_follow() -> None:
    """3.5, figure 3.1 step 3."""
    log = log_of([1, 1, 2, 2], THREE, term=2)
    node = follower(log)
    node.step(append(3, 2, 1, entry(3, 3)))
    persist(log, node, node.ready())
    assert node.last_index == 3
    assert log.term(3) == 3


def test_a_follower_keeps_entries_that_an_old_append_does_not_mention() -> None:
    """3.5: only a *conflict* truncates; acknowledged entries must not vanish."""
    node = follower(log_of([1, 1, 1], THREE, term=1))
    node.step(append(1, 0, 0, entry(1, 1, b"1.1")))
    ready = node.ready()
    assert (node.last_index, ready.entries) == (3, ())
    assert ready.messages_after_persist[0].index == 1


def test_a_follower_does_not_commit_beyond_the_last_new_entry() -> None:
    """3.5, figure 3.1 step 5: what follows it here may conflict with the leader's log."""
    node = follower(log_of([1, 1, 1], THREE, term=1))
    node.step(append(2, 1, 1, commit=3))
    assert node.commit == 1


def test_an_append_from_before_the_commit_index_changes_nothing() -> None:
    """3.7: it is old, or from a peer in error: committed entries are never touched (5.4.3)."""
    node = follower(log_of([1, 1, 1], THREE, term=1, commit=2))
    node.step(append(2, 1, 1, entry(2, 2)))
    assert [node.entry_term(i) for i in (1, 2, 3)] == [1, 1, 1]
    assert node.ready().messages_after_persist[0].index == 2


def test_the_same_append_twice_has_the_effect_of_one() -> None:
    """3.7: requests are idempotent, as their sender retries them."""
    log = MemoryLog(THREE)
    node = follower(log)
    request = append(1, 0, 0, entry(1, 1), entry(1, 2), commit=1)
    for _ in range(2):
        node.step(request)
        persist(log, node, node.ready())
    assert (node.last_index, node.commit, log.last_index()) == (2, 1, 2)


def test_a_follower_learns_from_the_leader_what_is_committed() -> None:
    """3.5: the leader puts its commit index into its messages."""
    node = follower(log_of([1, 1], THREE, term=1))
    node.step(append(1, 2, 1, commit=1))
    assert node.commit == 1
    node.step(Message(MessageKind.HEARTBEAT, 1, 2, 1, commit=2, round=1))
    assert node.commit == 2


def test_a_leader_makes_one_entry_for_an_index_and_a_term() -> None:
    """3.5, log matching: and its position never changes."""
    leader = Cell(3).elect(1)
    assert leader.propose_batch([b"a", b"b"]) == range(2, 4)
    assert leader.propose(b"c") == 4
    assert [leader.entry_term(i) for i in (1, 2, 3, 4)] == [1, 1, 1, 1]


def test_nothing_is_applied_twice_over_a_restart() -> None:
    """3.8: the state machine is durable here, so its applied index is too."""
    cell = Cell(1)
    cell.elect(1).propose(b"once")
    cell.settle()
    cell.peers[1].restart()
    cell.elect(1).propose(b"then")
    cell.settle()
    assert cell.data(1) == [b"once", b"then"]


def test_an_acknowledgement_leaves_only_after_the_disk_has_the_entries() -> None:
    """3.8."""
    node = follower(MemoryLog(THREE))
    node.step(append(1, 0, 0, entry(1, 1)))
    ready = node.ready()
    assert ready.entries
    assert ready.must_sync
    assert not ready.messages
    assert [m.index for m in ready.messages_after_persist] == [1]


def test_a_heartbeat_from_a_leader_that_thinks_we_have_more_reports_a_lost_log() -> None:
    """3.8: a server that lost its log cannot go on under its identity."""
    node = follower(log_of([1], THREE, term=1))
    with pytest.raises(LogCorruptionError, match="lost"):
        node.step(Message(MessageKind.HEARTBEAT, 1, 2, 1, commit=5, round=1))


def test_what_was_applied_was_committed_though_the_commit_index_was_lost() -> None:
    """3.8: the commit index may be lost in a crash; a ledger may be made durable on its own."""
    log = log_of([1, 1, 1], THREE, term=1, commit=1)
    log.record_applied(3, THREE)
    node = RawNode(Config(peer_id=1, **TICKS), log, random.Random(1), applied=3)
    assert (node.commit, node.applied) == (3, 3)
    assert not node.has_ready() or node.ready().committed == ()


def test_storage_that_applied_more_than_its_log_holds_is_refused() -> None:
    with pytest.raises(LogCorruptionError):
        RawNode(Config(peer_id=1, **TICKS), log_of([1], THREE, term=1), random.Random(1), applied=3)


def test_storage_whose_log_is_shorter_than_its_commit_index_is_refused() -> None:
    """3.8."""
    log = log_of([1], THREE, term=1)
    log.set_hard_state(HardState(1, 0, 5))
    with pytest.raises(LogCorruptionError):
        follower(log)


FIGURE_7 = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("case", FIGURE_7)
def test_a_leader_brings_every_log_of_figure_7_into_line(case: str) -> None:
    """3.5 / figure 7 of the paper, also when a hint skips whole terms."""
    cell = Cell(0, check_quorum=False)
    terms = {1: [1, 1, 1, 4, 4, 5, 5, 6, 6, 6], 2: FIGURE_7[case], 3: [1, 1, 1, 4, 4, 5, 5, 6, 6]}
    for peer, log_terms in terms.items():
        cell.add_peer(peer, THREE, log_of(log_terms, THREE, term=max(7, log_terms[-1])))
    cell.elect(1)
    cell.tick(5)
    for peer in (2, 3):
        log = cell.peers[peer].log
        assert [log.term(i) for i in range(1, 12)] == [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]


def test_one_rejection_skips_a_whole_term() -> None:
    """3.5: with the term in the rejection one round trip a term suffices, not one an entry."""
    cell = Cell(0, check_quorum=False)
    cell.add_peer(1, THREE, log_of([1] * 10 + [3] * 100, THREE, term=3))
    cell.add_peer(2, THREE, log_of([1] * 10 + [2] * 100, THREE, term=3))
    cell.add_peer(3, THREE, log_of([1] * 10, THREE, term=3))
    cell.elect(1)
    rejections = [
        m
        for ready in cell.peers[2].readies
        for m in ready.messages_after_persist
        if m.kind is MessageKind.APPEND_RESPONSE and m.reject
    ]
    assert 1 <= len(rejections) <= 2
    assert cell[2].commit == 111


def test_to_skip_a_term_costs_few_looks_at_the_log() -> None:
    """A leader that walks a million entries back is silent for an election timeout."""
    log = log_of([1] * 10 + [5] * 10_000, THREE, term=5)
    looks = []
    term_of = log.term
    log.term = lambda index: (looks.append(index), term_of(index))[1]  # type: ignore[method-assign,func-returns-value]
    node = follower(log)
    node.step(append(6, 20_000, 3))
    (answer,) = node.ready().messages_after_persist
    assert (answer.reject_hint, answer.log_term) == (10, 1)
    assert len(looks) < 50


def test_a_second_leader_of_the_same_term_is_reported() -> None:
    """Election safety is broken elsewhere: such a message cannot come from a correct peer."""
    node = follower(MemoryLog(THREE))
    node.step(append(1, 0, 0))
    with pytest.raises(MalformedMessageError, match="both claim"):
        node.step(Message(MessageKind.HEARTBEAT, 1, 3, 1, round=1))


def test_committed_entries_are_handed_out_once_in_order_and_within_the_limit() -> None:
    """3.5: in log order."""
    cell = Cell(1, max_applying_bytes=100)
    leader = cell.elect(1)
    leader.propose_batch([b"%02d" % n + b"x" * 38 for n in range(20)])
    cell.settle()
    assert [d[:2] for d in cell.data(1)] == [b"%02d" % n for n in range(20)]
    assert max(len(r.committed) for r in cell.peers[1].readies) <= 2


def test_nothing_more_is_handed_out_while_the_limit_is_being_applied() -> None:
    log = MemoryLog(Membership((1,)))
    node = leader_of(log, max_applying_bytes=50)
    node.propose_batch([b"x" * 40] * 3)
    persist(log, node, node.ready())
    first = node.ready()
    assert [e.index for e in first.committed] == [1]
    assert [e.index for e in node.ready().committed] == [2]
    assert not node.has_ready()
    node.applied_to(2)
    assert [e.index for e in node.ready().committed] == [3]


# -- writes that complete later ------------------------------------------------------------


def test_two_writes_may_be_in_flight_and_complete_in_order() -> None:
    log = MemoryLog(Membership((1,)))
    node = leader_of(log)
    first = node.ready()
    node.propose(b"a")
    second = node.ready()
    assert [e.index for e in second.entries] == [2]
    persist(log, node, first)
    assert (node.durable_index, node.commit) == (1, 1)
    persist(log, node, second)
    assert (node.durable_index, node.commit) == (2, 2)


def test_the_completion_of_a_number_covers_all_before_it() -> None:
    log = MemoryLog(Membership((1,)))
    node = leader_of(log)
    first = node.ready()
    node.propose(b"a")
    second = node.ready()
    log.append([*first.entries, *second.entries])
    node.persisted(second.number)
    assert node.commit == 2


def test_a_late_completion_of_overwritten_entries_marks_nothing_durable() -> None:
    """Even if the same entry came back meanwhile (ABA): the disk still has to write it again."""
    log = MemoryLog(THREE)
    node = follower(log)
    node.step(append(1, 0, 0, entry(1, 1), entry(1, 2)))
    first = node.ready()
    node.step(append(2, 1, 1, entry(2, 2)))
    second = node.ready()
    node.step(append(3, 1, 1, entry(1, 2), entry(3, 3)))
    third = node.ready()
    persist(log, node, first)
    assert node.durable_index == 1
    persist(log, node, second)
    assert node.durable_index == 1
    persist(log, node, third)
    assert node.durable_index == 3
    assert [log.term(i) for i in (1, 2, 3)] == [1, 1, 3]


def test_entries_on_their_way_to_the_disk_are_readable() -> None:
    cell = Cell(3)
    leader = cell.elect(1)
    leader.propose(b"pending")
    leader.ready()
    assert leader.entry_term(2) == 1


def test_reporting_what_was_never_asked_for_is_a_defect_of_the_driver() -> None:
    node = follower(MemoryLog(THREE))
    with pytest.raises(InvariantViolationError):
        node.persisted(1)
    with pytest.raises(InvariantViolationError):
        node.applied_to(1)


def test_only_a_newer_commit_index_needs_no_sync() -> None:
    log = MemoryLog(THREE)
    node = leader_of(log)
    persist(log, node, node.ready())
    accept(node, 2, 1)
    ready = node.ready()
    assert ready.hard_state == HardState(1, 1, 1)
    assert not ready.must_sync
