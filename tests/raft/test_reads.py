"""Section 6.4 (linearizable reads without writing to the log) and 6.4.1 (leases)."""

from __future__ import annotations

import pytest

from ha_scheduler.raft.errors import CallerError, NotLeaderError
from ha_scheduler.raft.messages import MessageKind, ServerState
from ha_scheduler.raft.ready import ReadState

from .harness import Cell


def test_a_read_is_answered_once_a_quorum_confirmed_the_leader() -> None:
    """6.4, step 3."""
    cell = Cell(3)
    leader = cell.elect(1)
    leader.read_index(b"q")
    cell.collect()
    assert cell.peers[1].reads == []
    cell.settle()
    assert cell.peers[1].reads == [ReadState(1, b"q")]


def test_a_leader_cut_off_answers_no_read() -> None:
    """6.4, step 3: it may have been replaced; the read would miss what the new one committed."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(1)
    leader.read_index(b"q")
    cell.settle()
    assert cell.peers[1].reads == []


def test_acknowledgements_of_older_heartbeats_confirm_nothing() -> None:
    """6.4: the round begins after the read index is taken."""
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
    """6.4: one round for any number of reads."""
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
    """6.4.1."""
    cell = Cell(3)
    cell[1].campaign()
    while cell[1].role is not ServerState.LEADER:
        cell.collect()
        cell.deliver()
    assert not cell.peers[1].lease_valid
    cell.settle()
    assert cell.peers[1].lease_valid


def test_the_lease_ends_before_another_leader_can_be_elected() -> None:
    """6.4.1, with the same tick for all."""
    cell = Cell(3)
    cell.elect(1)
    leader = cell.peers[1]
    cell.tick(4)
    cell.isolate(1)
    for _ in range(40):
        cell.tick()
        others = [p for p in cell.leaders() if p != 1]
        assert not (leader.lease_valid and others)
    assert cell.leaders()
    assert not leader.lease_valid


@pytest.mark.parametrize("slow", [1, 2, 3])
def test_the_lease_holds_while_clocks_drift_no_more_than_the_margin_allows(slow: int) -> None:
    """6.4.1: of 12 ticks, 2 less for the lease: one is the phase, the other a drift of 8%.

    Peer ``slow`` makes 12 ticks while the others make 13, and the others stand as early as they
    ever do. If the slow one is the leader, a margin of one tick would not do.
    """
    cell = Cell(3)
    cell.elect(1)
    leader = cell.peers[1]
    cell.tick(4)
    cell.isolate(1)
    for follower in (2, 3):
        cell[follower]._core._timeout = 12
    for step in range(60):
        for peer in (2, 3, 1):
            if peer != slow or step % 13:
                cell.tick(1, peer)
                others = [p for p in cell.leaders() if p != 1]
                assert not (leader.lease_valid and others)
    assert [p for p in cell.leaders() if p != 1]


def test_a_read_asked_for_during_a_transfer_misses_nothing() -> None:
    """6.4: the heartbeats that confirm it are refused by whoever voted for the new leader."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.tick(3)
    cell.drop = lambda m: m.to == 1
    leader.transfer_leadership(3)
    cell.settle()
    assert sorted(cell.leaders()) == [1, 3]
    cell[3].propose(b"newer")
    cell.settle()
    leader.read_index(b"q")
    cell.settle()
    cell.heal()
    cell.tick(6)
    assert cell.peers[1].reads == []


def test_the_lease_is_as_old_as_the_message_answered_not_as_its_answer() -> None:
    """6.4.1: an answer that the network held for long proves little."""
    cell = Cell(3)
    cell.elect(1)
    leader = cell.peers[1]
    cell.drop = lambda m: m.kind is MessageKind.HEARTBEAT_RESPONSE
    cell.tick(4)
    late = [m for m in cell.dropped if m.kind is MessageKind.HEARTBEAT_RESPONSE]
    cell.tick(7, 1)
    for message in late:
        leader.step(message)
    assert leader.lease_valid
    cell.tick(3, 1)
    for message in late:
        leader.step(message)
    assert leader.node.role is ServerState.LEADER
    assert not leader.lease_valid
