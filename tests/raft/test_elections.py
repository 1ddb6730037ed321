"""Chapter 3.4 and 3.6.1 (elections), sentence by sentence."""

from __future__ import annotations

import contextlib

import pytest

from ha_scheduler.raft.config import Config
from ha_scheduler.raft.errors import ConfigError, MalformedMessageError
from ha_scheduler.raft.messages import (
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    ServerState,
    SnapshotMeta,
)
from tests.twins.log import MemoryLog

from .harness import TICKS, Cell, kinds, log_of
from .nodes import FIVE, THREE, answers, node_of, vote


def test_servers_start_as_followers() -> None:
    """3.3."""
    assert node_of().role is ServerState.FOLLOWER


def test_a_follower_that_hears_nothing_for_an_election_timeout_starts_an_election() -> None:
    """3.4."""
    node = node_of(pre_vote=False)
    for _ in range(24):
        node.tick()
    assert (node.role, node.term) == (ServerState.CANDIDATE, 1)


def test_election_timeouts_are_spread_over_the_whole_interval() -> None:
    """3.4: randomized timeouts make split votes rare."""
    seen = set()
    for seed in range(300):
        node = node_of(seed=seed)
        ticks = 0
        while node.role is ServerState.FOLLOWER:
            node.tick()
            ticks += 1
        seen.add(ticks)
    assert seen == set(range(12, 24))


def test_heartbeats_keep_a_follower_from_starting_an_election() -> None:
    """3.4."""
    node = node_of()
    for tick in range(100):
        node.step(Message(MessageKind.HEARTBEAT, 1, 2, 1, round=1, tick=tick))
        for _ in range(11):
            node.tick()
    assert (node.role, node.leader) == (ServerState.FOLLOWER, 2)


def test_a_candidate_increments_its_term_votes_for_itself_and_asks_all_others() -> None:
    """3.4."""
    node = node_of(pre_vote=False)
    node.campaign()
    ready = node.ready()
    assert ready.hard_state == HardState(1, 1, 0)
    assert ready.must_sync
    assert [(m.kind, m.to) for m in ready.messages_after_persist] == [
        (MessageKind.VOTE, 2),
        (MessageKind.VOTE, 3),
    ]


def test_a_candidacy_leaves_only_after_the_disk_has_it() -> None:
    """3.8: the term must not begin a second time, with other entries, after a crash."""
    node = node_of(pre_vote=False)
    node.campaign()
    ready = node.ready()
    assert ready.must_sync
    assert ready.messages == ()
    assert kinds(ready.messages_after_persist) == [MessageKind.VOTE] * 2


def test_votes_for_a_candidacy_that_the_disk_forgot_elect_nobody() -> None:
    """3.6.1: peer 2 asks with an entry that its disk does not have yet, and crashes.

    The entry is committed: 1 and 3 have it. In its second life peer 2 begins the same term
    without it, and the vote of peer 3 for its first life comes in.
    """
    cell = Cell(3, pre_vote=False, check_quorum=False)
    leader = cell.elect(1)
    cell.tick(3)
    leader.propose(b"committed")
    cell.collect()
    (append,) = [m for m in cell.wire if m.to == 2]
    cell.drop = lambda m: m.to == 2
    cell.settle()
    assert leader.commit == 2
    lazy = cell[2]
    lazy.step(append)
    lazy.campaign()
    early = lazy.ready().messages
    votes: list[Message] = []
    for message in early:
        if message.to == 3:
            cell[3].step(message)
            votes.extend(m for m in cell.peers[3].process_ready() if m.to == 2)
    cell.peers[2].restart()
    again = cell[2]
    assert (again.term, again.last_index) == (1, 1)
    again.campaign()
    cell.peers[2].process_ready()
    for message in votes:
        again.step(message)
    assert again.role is not ServerState.LEADER


def test_a_heartbeat_is_answered_only_after_the_disk_has_its_term() -> None:
    """3.8: the leader's lease counts on the promise, which a restart renews only in a term."""
    node = node_of()
    node.step(Message(MessageKind.HEARTBEAT, 1, 2, 1, round=1))
    first = node.ready()
    assert first.messages == ()
    assert kinds(first.messages_after_persist) == [MessageKind.HEARTBEAT_RESPONSE]
    node.persisted(first.number)
    node.step(Message(MessageKind.HEARTBEAT, 1, 2, 1, round=2))
    assert kinds(node.ready().messages) == [MessageKind.HEARTBEAT_RESPONSE]


def test_a_candidates_own_vote_counts_only_once_it_is_durable() -> None:
    """3.8: the vote is persisted before it is given, also to oneself."""
    node = node_of(pre_vote=False)
    node.campaign()
    ready = node.ready()
    node.step(Message(MessageKind.VOTE_RESPONSE, 1, 2, 1))
    assert node.role is ServerState.CANDIDATE
    node.persisted(ready.number)
    assert node.role is ServerState.LEADER


def test_a_server_votes_for_at_most_one_candidate_a_term() -> None:
    """3.4, first come first served; also after a restart."""
    log = MemoryLog(THREE)
    node = node_of(log=log)
    node.step(vote(2, 1))
    ready = node.ready()
    assert ready.hard_state is not None
    log.set_hard_state(ready.hard_state)
    node.step(vote(3, 1))
    assert answers(node) == [(3, True)]
    again = node_of(log=log, check_quorum=False)
    again.step(vote(3, 1))
    assert answers(again) == [(3, True)]


def test_a_repeated_request_of_the_same_candidate_gets_the_same_vote() -> None:
    """3.7: the response may have been lost."""
    node = node_of()
    node.step(vote(2, 1))
    node.step(vote(2, 1))
    assert answers(node) == [(2, False), (2, False)]


@pytest.mark.parametrize(
    ("index", "log_term", "rejected"),
    [(3, 2, False), (2, 2, True), (9, 1, True), (1, 3, False), (4, 2, False)],
)
def test_a_voter_denies_its_vote_if_its_own_log_is_more_up_to_date(
    index: int, log_term: int, rejected: bool
) -> None:
    """3.6.1: the later last term wins, then the longer log."""
    node = node_of(log=log_of([1, 1, 2], THREE, term=2), check_quorum=False)
    node.step(vote(2, 5, index, log_term))
    assert answers(node) == [(2, rejected)]


def test_a_vote_leaves_only_after_the_disk_has_it() -> None:
    """3.8."""
    node = node_of()
    node.step(vote(2, 1))
    ready = node.ready()
    assert ready.must_sync
    assert not ready.messages
    assert kinds(ready.messages_after_persist) == [MessageKind.VOTE_RESPONSE]


def test_a_candidate_that_hears_of_a_leader_of_its_term_becomes_follower() -> None:
    """3.4, outcome (b)."""
    node = node_of(pre_vote=False)
    node.campaign()
    node.step(Message(MessageKind.APPEND, 1, 3, 1, round=1))
    assert (node.role, node.leader, node.term) == (ServerState.FOLLOWER, 3, 1)


def test_a_candidate_ignores_a_leader_of_an_older_term() -> None:
    """3.4."""
    node = node_of(log=log_of([], THREE, term=4), pre_vote=False)
    node.campaign()
    node.step(Message(MessageKind.APPEND, 1, 3, 4, round=1))
    assert (node.role, node.term) == (ServerState.CANDIDATE, 5)


def test_a_candidate_without_majority_starts_over_with_a_new_term() -> None:
    """3.4, outcome (c): the vote was split."""
    node = node_of(pre_vote=False)
    node.campaign()
    for _ in range(24):
        node.tick()
    assert node.term == 2


@pytest.mark.parametrize("granted", [1, 2, 3, 4])
def test_a_candidate_wins_with_votes_of_a_majority(granted: int) -> None:
    """3.4, outcome (a)."""
    node = node_of(log=MemoryLog(FIVE), pre_vote=False)
    node.campaign()
    node.persisted(node.ready().number)
    for peer in range(2, 2 + granted):
        node.step(Message(MessageKind.VOTE_RESPONSE, 1, peer, 1))
    assert (node.role is ServerState.LEADER) is (granted >= 2)


def test_votes_counted_twice_do_not_make_a_majority() -> None:
    """3.4: one vote a server."""
    node = node_of(log=MemoryLog(FIVE), pre_vote=False)
    node.campaign()
    node.persisted(node.ready().number)
    for _ in range(3):
        node.step(Message(MessageKind.VOTE_RESPONSE, 1, 2, 1))
    assert node.role is ServerState.CANDIDATE


@pytest.mark.parametrize("role", [ServerState.FOLLOWER, ServerState.CANDIDATE, ServerState.LEADER])
def test_a_higher_term_in_a_response_makes_anyone_a_follower_of_that_term(
    role: ServerState,
) -> None:
    """3.3: if a candidate or leader discovers that its term is out of date, it reverts."""
    node = node_of(pre_vote=False)
    if role is not ServerState.FOLLOWER:
        node.campaign()
        node.persisted(node.ready().number)
    if role is ServerState.LEADER:
        node.step(Message(MessageKind.VOTE_RESPONSE, 1, 2, 1))
    assert node.role is role
    node.step(Message(MessageKind.APPEND_RESPONSE, 1, 2, 7))
    assert (node.role, node.term) == (ServerState.FOLLOWER, 7)


@pytest.mark.parametrize("kind", [MessageKind.APPEND, MessageKind.HEARTBEAT])
def test_a_leader_of_an_older_term_changes_nothing_and_is_told(kind: MessageKind) -> None:
    """3.3: a request with a stale term is rejected; the answer carries the newer one."""
    node = node_of(log=log_of([1], THREE, term=4))
    node.step(Message(kind, 1, 2, 3, round=1))
    ready = node.ready()
    (answer,) = (*ready.messages, *ready.messages_after_persist)
    assert (answer.kind, answer.term, answer.to) == (MessageKind.APPEND_RESPONSE, 4, 2)
    assert (node.term, node.leader, node.last_index) == (4, 0, 1)


def test_a_candidate_of_an_older_term_gets_no_vote() -> None:
    """3.3: it is not answered; one that asks for a pre-vote is told the term."""
    node = node_of(log=log_of([1], THREE, term=4), check_quorum=False)
    node.step(vote(2, 3, index=9, log_term=3))
    assert not node.has_ready()
    node.step(Message(MessageKind.PRE_VOTE, 1, 2, 3, index=9, log_term=3))
    assert answers(node) == [(2, True)]
    assert node.term == 4


def test_a_leader_never_deletes_or_replaces_entries_of_its_own_log() -> None:
    """3.5, leader append-only: no message of its term or an older one makes it."""
    cell = Cell(3)
    leader = cell.elect(1)
    leader.propose_batch([b"a", b"b", b"c"])
    cell.settle()
    rival = (Entry(1, 2, EntryKind.NORMAL, b"x"),)
    meta = SnapshotMeta(9, 1, THREE)
    for kind in MessageKind:
        for term in (0, 1):
            message = Message(kind, 1, 2, term, log_term=1, index=1, entries=rival, snapshot=meta)
            with contextlib.suppress(MalformedMessageError):
                leader.step(message)
            leader.check_invariants()
    cell.settle()
    assert cell.leaders() == [1]
    assert cell.data(1) == [b"a", b"b", b"c"]


def test_a_new_leader_tells_all_others_at_once_and_an_idle_one_sends_heartbeats() -> None:
    """3.4: to prevent new elections."""
    cell = Cell(3)
    leader = cell.elect(1)
    first = [r for r in cell.peers[1].readies if r.soft_state and r.soft_state.leader == 1]
    assert [m.to for m in first[0].messages] == [2, 3]
    for _ in range(4):
        leader.tick()
    assert kinds(leader.ready().messages) == [MessageKind.HEARTBEAT] * 4


def test_a_server_votes_for_a_candidate_that_is_in_no_membership_it_knows() -> None:
    """4.1: its log may lack the entry that added the candidate."""
    node = node_of()
    node.step(vote(9, 1))
    assert answers(node) == [(9, False)]


def test_a_server_accepts_entries_of_a_leader_that_is_in_no_membership_it_knows() -> None:
    """4.1: or a new server could never be given anything."""
    node = node_of()
    entry = Entry(1, 1, EntryKind.NORMAL, b"x")
    node.step(Message(MessageKind.APPEND, 1, 9, 1, entries=(entry,), round=1))
    assert (node.leader, node.last_index) == (9, 1)


def test_terms_and_votes_survive_a_restart() -> None:
    """3.8."""
    log = MemoryLog(THREE)
    log.set_hard_state(HardState(9, 3, 0))
    node = node_of(log=log, check_quorum=False)
    assert node.term == 9
    node.step(vote(2, 9))
    assert answers(node) == [(2, True)]


def test_a_leader_without_quorum_steps_down_within_an_election_timeout() -> None:
    """6.2."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.tick(5)
    cell.isolate(1)
    cell.tick(12, 1)
    assert leader.role is ServerState.FOLLOWER


def test_a_leader_with_a_quorum_stays_though_a_minority_is_gone() -> None:
    """6.2."""
    cell = Cell(5)
    leader = cell.elect(1)
    cell.isolate(4, 5)
    cell.tick(100)
    assert leader.role is ServerState.LEADER


@pytest.mark.parametrize(
    "settings",
    [
        {"election_ticks": 2, "heartbeat_ticks": 2},
        {"heartbeat_ticks": 0},
        {"peer_id": 0},
        {"max_append_bytes": 0},
        {"promotion_lag_ticks": 0},
        {"priority": -1},
        {"priority": 3},
        {"max_inflight_bytes": 10},
        {"max_uncommitted_bytes": 10},
    ],
)
def test_dangerous_settings_are_refused(settings: dict[str, int]) -> None:
    """3.9: heartbeats must come much more often than election timeouts."""
    with pytest.raises(ConfigError):
        Config(**{"peer_id": 1, **TICKS, **settings}).validate()  # type: ignore[arg-type]
