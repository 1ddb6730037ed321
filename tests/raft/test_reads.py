"""Section 6.4 (linearizable reads without writing to the log) and 6.4.1 (leases)."""

from __future__ import annotations

import pytest

from ha_scheduler.raft import CallerError, MessageKind, NotLeaderError, ReadState, Role

from .harness import Cell


def test_a_read_is_answered_once_a_quorum_confirmed_the_leader() -> None:
    cell = Cell(3)
    leader = cell.elect(1)
    leader.read_index(b"q")
    cell.collect()
    assert cell.peers[1].reads == []
    cell.settle()
    assert cell.peers[1].reads == [ReadState(1, b"q")]


def test_a_leader_cut_off_answers_no_read() -> None:
    """It may have been replaced, and the read would miss what the new leader committed."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(1)
    leader.read_index(b"q")
    cell.settle()
    assert cell.peers[1].reads == []


def test_acknowledgements_of_older_heartbeats_confirm_nothing() -> None:
    cell = Cell(3)
    leader = cell.elect(1)
    leader.tick()
    leader.tick()
    cell.collect()
    leader.read_index(b"q")
    old = [m for m in cell.wire if m.kind is MessageKind.HEARTBEAT]
    cell.drop = lambda m: m.kind is MessageKind.HEARTBEAT and m not in old
    cell.settle()
    assert old
    assert cell.peers[1].reads == []


def test_a_new_leader_answers_only_after_committing_an_entry_of_its_term() -> None:
    """6.4, step 1: before, it does not know which entries are committed."""
    cell = Cell(3)
    cell.elect(1).transfer_leadership(2)
    cell.drop = lambda m: m.kind is MessageKind.APPEND
    cell.settle()
    leader = cell[2]
    leader.read_index(b"q")
    cell.tick(3)
    assert cell.peers[2].reads == []
    cell.heal()
    cell.tick(3)
    assert cell.peers[2].reads == [ReadState(2, b"q")]


def test_a_follower_gets_its_answer_from_the_leader() -> None:
    """6.4, last paragraphs."""
    cell = Cell(3)
    leader = cell.elect(1)
    leader.propose(b"x")
    cell.settle()
    cell[3].read_index(b"q")
    cell.settle()
    assert cell.peers[3].reads == [ReadState(2, b"q")]


def test_reads_asked_for_together_share_one_round_of_heartbeats() -> None:
    cell = Cell(3)
    leader = cell.elect(1)
    for n in range(100):
        leader.read_index(b"%d" % n)
    ready = leader.ready()
    assert [m.kind for m in ready.messages] == [MessageKind.HEARTBEAT] * 2


def test_a_single_peer_answers_at_once() -> None:
    cell = Cell(1)
    cell.elect(1).read_index(b"q")
    cell.settle()
    assert cell.peers[1].reads == [ReadState(1, b"q")]


def test_without_leader_there_is_nobody_to_ask() -> None:
    with pytest.raises(NotLeaderError):
        Cell(3)[1].read_index(b"q")


def test_a_context_is_an_identifier_not_a_payload() -> None:
    with pytest.raises(CallerError):
        Cell(1).elect(1).read_index(b"x" * 5000)


def test_the_lease_begins_with_the_first_answers_of_a_quorum() -> None:
    cell = Cell(3)
    cell[1].campaign()
    while cell[1].role is not Role.LEADER:
        cell.collect()
        cell.deliver()
    assert not cell[1].lease_valid
    cell.settle()
    assert cell[1].lease_valid


def test_the_lease_ends_before_another_leader_can_be_elected() -> None:
    """6.4.1, with the same tick for all."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.tick(4)
    cell.isolate(1)
    for _ in range(40):
        cell.tick()
        others = [p for p in cell.leaders() if p != 1]
        assert not (leader.lease_valid and others)
    assert cell.leaders()
    assert not leader.lease_valid


def test_the_lease_is_as_old_as_the_message_answered_not_as_its_answer() -> None:
    """An answer that the network held for long proves little."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.drop = lambda m: m.kind is MessageKind.HEARTBEAT_RESPONSE
    cell.tick(4)
    late = [m for m in cell.dropped if m.kind is MessageKind.HEARTBEAT_RESPONSE]
    for _ in range(7):
        leader.tick()
    for message in late:
        leader.step(message)
    assert leader.lease_valid
    for _ in range(3):
        leader.tick()
    for message in late:
        leader.step(message)
    assert not leader.lease_valid


def test_without_check_quorum_there_is_no_lease() -> None:
    cell = Cell(3, check_quorum=False)
    cell.elect(1)
    cell.tick(5)
    assert not cell[1].lease_valid
