"""Chapter 4.2.3 and 9.6 (who may disturb a leader, and who stands first), sentence by sentence."""

from __future__ import annotations

import pytest

from ha_scheduler.raft.messages import Membership, Message, MessageKind, ServerState
from tests.twins.log import MemoryLog

from .harness import Cell, log_of
from .nodes import THREE, answers, node_of, vote


def test_a_pre_vote_changes_neither_term_nor_vote() -> None:
    """9.6."""
    node = node_of()
    node.campaign()
    ready = node.ready()
    assert (node.role, node.term, ready.hard_state) == (ServerState.PRE_CANDIDATE, 0, None)
    assert [(m.kind, m.term) for m in ready.messages] == [(MessageKind.PRE_VOTE, 1)] * 2


def test_a_peer_that_was_cut_off_does_not_disturb_the_cell_when_it_returns() -> None:
    """9.6: its term did not grow meanwhile."""
    cell = Cell(3)
    cell.elect(1)
    cell.isolate(3)
    cell.tick(100)
    cell.heal()
    cell.tick(30)
    assert cell.leaders() == [1]
    assert cell[1].term == 1


def test_a_late_grant_of_an_older_pre_vote_is_ignored() -> None:
    """9.6."""
    node = node_of(log=log_of([], THREE, term=4))
    node.campaign()
    node.step(Message(MessageKind.PRE_VOTE_RESPONSE, 1, 2, 4))
    assert node.role is ServerState.PRE_CANDIDATE
    node.step(Message(MessageKind.PRE_VOTE_RESPONSE, 1, 3, 5))
    assert node.role is ServerState.CANDIDATE


def test_a_server_that_hears_a_leader_does_not_vote_nor_take_over_a_higher_term() -> None:
    """4.2.3."""
    node = node_of()
    node.step(Message(MessageKind.HEARTBEAT, 1, 2, 1, round=1))
    node.step(vote(3, 50))
    assert node.term == 1
    for _ in range(11):
        node.tick()
    node.step(vote(3, 50))
    assert node.term == 1
    node.tick()
    node.step(vote(3, 50))
    assert node.term == 50


def test_a_transfer_overrules_the_promise_to_the_leader() -> None:
    """4.2.3, last paragraph."""
    node = node_of()
    node.step(Message(MessageKind.HEARTBEAT, 1, 2, 1, round=1))
    node.ready()
    node.step(vote(3, 2, force=True))
    assert answers(node) == [(3, False)]


def test_a_restarted_peer_keeps_the_promise_it_may_have_given_before() -> None:
    """6.4.1: the leader counts on it for its lease, and does not know of the restart."""
    node = node_of(log=log_of([1], THREE, term=1))
    node.step(vote(2, 2, index=1, log_term=1))
    assert node.term == 1
    for _ in range(12):
        node.tick()
    node.step(vote(2, 2, index=1, log_term=1))
    assert answers(node) == [(2, False)]


def test_a_stray_message_of_a_higher_term_does_not_end_the_promise() -> None:
    """6.4.1."""
    node = node_of()
    node.step(Message(MessageKind.HEARTBEAT, 1, 2, 1, round=1))
    node.ready()
    node.step(Message(MessageKind.PRE_VOTE_RESPONSE, 1, 3, 5, reject=True))
    node.step(vote(3, 5))
    assert answers(node) == [(3, True)]


def test_a_learner_never_campaigns_but_votes_if_asked() -> None:
    """4.2.1: and it may have become a voter without knowing yet."""
    node = node_of(log=MemoryLog(Membership((2, 3), (1,))))
    for _ in range(100):
        node.tick()
    assert node.role is ServerState.FOLLOWER
    node.step(vote(2, 1))
    assert answers(node) == [(2, False)]


def test_a_peer_whose_engine_is_not_ready_lets_others_lead() -> None:
    cell = Cell(3)
    cell[1].electable = cell[2].electable = False
    cell.tick(30)
    assert cell.leaders() == [3]


def test_an_unelectable_peer_campaigns_when_nobody_else_does_for_three_timeouts() -> None:
    node = node_of()
    node.electable = False
    ticks = 0
    while node.role is ServerState.FOLLOWER:
        node.tick()
        ticks += 1
    assert 48 <= ticks < 60


@pytest.mark.parametrize(("priority", "electable"), [(2, True), (1, True), (0, True), (2, False)])
def test_a_peer_of_lower_priority_stands_after_all_peers_of_a_higher_one(
    priority: int, electable: bool
) -> None:
    """So it leads only where they are gone; that they are is waited for one timeout each."""
    place = 2 - priority + (0 if electable else 3)
    for seed in range(50):
        node = node_of(seed=seed, priority=priority)
        node.electable = electable
        ticks = 0
        while node.role is ServerState.FOLLOWER:
            node.tick()
            ticks += 1
        assert 12 * (1 + place) <= ticks < 12 * (2 + place)


def test_the_peer_of_the_highest_priority_is_elected() -> None:
    cell = Cell(0)
    for peer, priority in ((1, 0), (2, 2), (3, 1)):
        cell.settings = {"priority": priority}
        cell.add_peer(peer, THREE)
    cell.tick(30)
    assert cell.leaders() == [2]


def test_the_peer_of_the_lowest_priority_leads_when_its_log_alone_is_complete() -> None:
    """Priority orders candidates; it elects nobody whose log lags."""
    cell = Cell(0)
    for peer, priority, terms in ((1, 0, [1, 1]), (2, 2, [1]), (3, 1, [1])):
        cell.settings = {"priority": priority}
        cell.add_peer(peer, THREE, log_of(terms, THREE, term=1))
    cell.isolate(3)
    cell.tick(60)
    assert cell.leaders() == [1]


def test_a_peer_of_high_priority_that_comes_back_takes_nothing_away() -> None:
    """Leadership moves only when it is lost, or handed over."""
    cell = Cell(0)
    for peer, priority in ((1, 0), (2, 2), (3, 0)):
        cell.settings = {"priority": priority}
        cell.add_peer(peer, THREE)
    cell.elect(1)
    cell.isolate(2)
    cell.tick(50)
    cell.heal()
    cell.tick(50)
    assert cell.leaders() == [1]
