"""Chapter 10.2 (pipelining): how much may be under way, and what happens beyond it."""

from __future__ import annotations

import pytest

from ha_scheduler.raft.errors import EntryTooLargeError, ProposalDroppedError
from ha_scheduler.raft.messages import Message, MessageKind, ServerState
from ha_scheduler.raft.node import RawNode
from ha_scheduler.raft.progress import ProgressState
from ha_scheduler.raft.ready import Ready
from tests.twins.log import MemoryLog

from .harness import Cell
from .nodes import THREE, accept, leader_of, persist


def test_appends_are_pipelined_without_waiting_for_answers() -> None:
    """10.2.2."""
    cell = Cell(3)
    leader = cell.elect(1)
    for n in range(3):
        leader.propose(b"%d" % n)
    sent = [m for m in leader.ready().messages if m.to == 2]
    assert [m.index for m in sent] == [1, 2, 3]


def test_a_large_batch_leaves_in_several_appends_at_once() -> None:
    """10.2.2: a graph of many entries must not cost a round trip for each."""
    cell = Cell(3, max_append_bytes=200)
    leader = cell.elect(1)
    leader.propose_batch([b"x" * 68] * 10)
    sent = [m for m in leader.ready().messages if m.to == 2]
    assert [len(m.entries) for m in sent] == [2] * 5


def test_unanswered_appends_to_a_follower_are_bounded_by_count() -> None:
    """10.2.2."""
    cell = Cell(3, max_inflight_messages=4)
    leader = cell.elect(1)
    cell.isolate(3)
    for n in range(20):
        leader.propose(b"%d" % n)
        cell.settle()
    view = leader.progress()[2]
    assert (view.inflight, view.inflight_full, view.paused) == (4, True, True)
    assert leader.commit == 21
    cell.heal()
    cell.tick(10)
    assert cell[3].commit == 21


def test_unanswered_appends_to_a_follower_are_bounded_by_bytes() -> None:
    """10.2.2."""
    cell = Cell(3, max_append_bytes=100, max_inflight_bytes=300)
    leader = cell.elect(1)
    cell.isolate(3)
    for _ in range(20):
        leader.propose(b"x" * 68)
        cell.settle()
    assert leader.progress()[2].inflight == 3


def test_an_append_carries_no_more_than_its_limit_but_always_one_entry() -> None:
    cell = Cell(3, max_append_bytes=200)
    leader = cell.elect(1)
    cell.isolate(3)
    leader.propose_batch([b"x" * 68] * 5 + [b"y" * 500])
    cell.settle()
    cell.heal()
    cell.tick(5)
    sent = [m for r in cell.peers[1].readies for m in r.messages if m.entries and m.to == 3]
    assert max(len(m.entries) for m in sent) == 2
    assert cell[3].commit == leader.commit == 7


def test_lost_appends_are_sent_again_after_a_heartbeat() -> None:
    """3.5: the leader retries indefinitely."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(3)
    leader.propose(b"lost")
    cell.settle()
    cell.heal()
    cell.tick(4)
    assert cell.data(3) == [b"lost"]


def test_a_broken_connection_stops_the_pipeline_until_the_follower_answers() -> None:
    """10.2.2: after a loss it goes back to what is certain."""
    cell = Cell(3)
    leader = cell.elect(1)
    leader.report_unreachable(3)
    assert leader.progress()[2].state is ProgressState.PROBE
    leader.propose(b"x")
    cell.settle()
    assert leader.progress()[2].state is ProgressState.REPLICATE


def test_a_response_of_an_older_leadership_does_not_move_progress() -> None:
    """The reply by which a deposed leader is told of a new term answers nothing."""
    cell = Cell(3)
    cell.isolate(3)
    leader = cell.elect(1)
    before = leader.progress()
    leader.step(Message(MessageKind.APPEND_RESPONSE, 1, 3, leader.term))
    assert leader.progress() == before
    assert before[2].state is ProgressState.PROBE


def test_an_acknowledgement_beyond_the_log_commits_nothing() -> None:
    node = leader_of(MemoryLog(THREE))
    node.ready()
    accept(node, 2, 99)
    assert node.commit == 0
    node.check_invariants()


def test_proposals_beyond_the_uncommitted_limit_are_dropped_and_welcome_again_later() -> None:
    cell = Cell(3, max_uncommitted_bytes=1000, max_entry_bytes=600)
    leader = cell.elect(1)
    cell.isolate(1)
    leader.propose(b"x" * 600)
    with pytest.raises(ProposalDroppedError):
        leader.propose(b"x" * 600)
    cell.heal()
    cell.tick(3)
    leader.propose(b"x" * 600)


def test_a_leader_whose_own_disk_is_stuck_takes_no_more_than_the_limit() -> None:
    """10.2.1: the others commit without it, but it must hold what its disk has not taken."""
    log = MemoryLog(THREE)
    node = leader_of(log, max_uncommitted_bytes=1000, max_entry_bytes=600)
    persist(log, node, node.ready())
    stuck = []
    node.propose(b"x" * 600)
    stuck.append(node.ready())
    accept(node, 2, 2)
    accept(node, 3, 2)
    assert node.commit == 2
    with pytest.raises(ProposalDroppedError, match="disk"):
        node.propose(b"x" * 600)
    persist(log, node, stuck[0])
    node.propose(b"x" * 600)


def leader_with_a_stuck_disk() -> tuple[Cell, RawNode]:
    """Peer 1 leads; its disk takes nothing any more, those of the others do."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.tick(3)
    peer = cell.peers[1]
    taken: list[Ready] = []

    def take_and_keep() -> list[Message]:
        taken.append(peer.node.ready())
        return list(taken[-1].messages)

    peer.process_ready = take_and_keep  # type: ignore[method-assign]
    return cell, leader


def test_a_leader_whose_own_disk_is_stuck_for_long_hands_over() -> None:
    """10.2.1: the others commit without it, until it may take no more. They need not wait."""
    cell, leader = leader_with_a_stuck_disk()
    leader.propose(b"x")
    cell.settle()
    cell.tick(59)
    assert cell.leaders() == [1]
    assert leader.commit == leader.last_index > leader.durable_index
    cell.tick(1)
    assert cell.leaders() in ([2], [3])
    cell.tick(100)
    assert cell.leaders() in ([2], [3])


def test_a_leader_whose_disk_is_as_slow_as_the_others_keeps_leading() -> None:
    """Nothing commits without it, so another would be no better."""
    cell, leader = leader_with_a_stuck_disk()
    leader.propose(b"x")
    cell.drop = lambda m: m.kind is MessageKind.APPEND_RESPONSE
    cell.tick(200)
    assert cell.leaders() == [1]


def test_a_leader_whose_disk_is_slow_but_moves_keeps_leading() -> None:
    log = MemoryLog(THREE)
    node = leader_of(log)
    persist(log, node, node.ready())
    accept(node, 2, 1)
    waiting = []
    for n in range(20):
        node.propose(b"x")
        waiting.append(node.ready())
        for peer in (2, 3):
            accept(node, peer, node.last_index, tick=10 * n)
        for _ in range(10):
            node.tick()
        if n % 4 == 3:
            persist(log, node, waiting.pop(0))
    assert node.role is ServerState.LEADER
    assert node.commit > node.durable_index


def test_a_batch_beyond_the_uncommitted_limit_is_refused_for_good() -> None:
    leader = Cell(1, max_uncommitted_bytes=100, max_entry_bytes=60).elect(1)
    with pytest.raises(EntryTooLargeError, match="batch"):
        leader.propose_batch([b"x" * 60] * 2)
    leader.propose(b"x" * 60)


def test_empty_proposals_count_too() -> None:
    """What they cost is their entry."""
    cell = Cell(3, max_uncommitted_bytes=1000, max_entry_bytes=600)
    leader = cell.elect(1)
    cell.isolate(1)
    for _ in range(31):  # of 32 bytes each
        leader.propose(b"")
    with pytest.raises(ProposalDroppedError):
        leader.propose(b"")


def test_an_entry_above_the_limit_is_refused_for_good() -> None:
    leader = Cell(1, max_entry_bytes=10).elect(1)
    with pytest.raises(EntryTooLargeError):
        leader.propose(b"x" * 11)
