"""Section 3.10 (leadership transfer)."""

from __future__ import annotations

import pytest

from ha_scheduler.raft.errors import ProposalDroppedError, TransferError
from ha_scheduler.raft.membership import ChangeKind, MembershipChange
from ha_scheduler.raft.messages import MessageKind, ServerState

from .harness import Cell


def test_an_up_to_date_target_is_elected_at_once_without_pre_vote() -> None:
    """3.10."""
    cell = Cell(3)
    cell.elect(1)
    cell[1].transfer_leadership(3)
    cell.settle()
    assert cell.leaders() == [3]
    assert (cell[3].term, cell[1].leader) == (2, 3)


def test_a_target_that_lags_is_brought_up_to_date_first() -> None:
    """3.10."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(3)
    leader.propose_batch([b"%d" % n for n in range(10)])
    cell.settle()
    leader.transfer_leadership(3)
    cell.settle()
    assert cell.leaders() == [1]
    assert all(m.kind is not MessageKind.TIMEOUT_NOW for m in cell.dropped)
    cell.heal()
    cell.tick(3)
    assert cell.leaders() == [3]
    assert len(cell.data(3)) == 10


def test_proposals_are_refused_while_a_transfer_is_under_way() -> None:
    """3.10."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(3)
    leader.transfer_leadership(3)
    with pytest.raises(ProposalDroppedError):
        leader.propose(b"x")


def test_a_transfer_that_takes_an_election_timeout_is_given_up() -> None:
    """3.10."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(3)
    leader.transfer_leadership(3)
    assert leader.transferring_to == 3
    cell.tick(12, 1, 2)
    assert leader.transferring_to == 0
    leader.propose(b"x")


@pytest.mark.parametrize("target", [1, 4, 9], ids=["itself", "a learner", "a stranger"])
def test_leadership_goes_only_to_another_voter(target: int) -> None:
    cell = Cell(3)
    leader = cell.elect(1)
    cell.join(4)
    with pytest.raises(TransferError):
        leader.transfer_leadership(target)


def test_the_membership_does_not_change_while_leadership_is_handed_over() -> None:
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(3)
    leader.transfer_leadership(3)
    with pytest.raises(ProposalDroppedError, match="handed to peer 3"):
        leader.propose_membership(MembershipChange(ChangeKind.REMOVE, 3))


def test_a_target_whose_engine_is_not_ready_declines() -> None:
    cell = Cell(3)
    leader = cell.elect(1)
    cell[3].electable = False
    leader.transfer_leadership(3)
    cell.settle()
    assert leader.role is ServerState.LEADER


def test_there_is_no_lease_from_the_hand_over_until_it_certainly_failed() -> None:
    """6.4.1: the target may be elected in spite of every promise."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.tick(3)
    assert cell.peers[1].lease_valid
    cell.drop = lambda m: m.kind is MessageKind.TIMEOUT_NOW
    leader.transfer_leadership(3)
    cell.settle()
    assert not cell.peers[1].lease_valid
    cell.tick(4)
    assert cell.peers[1].lease_valid


def test_an_old_wish_to_hand_over_is_ignored() -> None:
    """The target has answered something newer since, so the leader has its lease again."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.drop = lambda m: m.kind is MessageKind.TIMEOUT_NOW
    leader.transfer_leadership(3)
    cell.tick(4)
    (wish,) = [m for m in cell.dropped if m.kind is MessageKind.TIMEOUT_NOW]
    cell.heal()
    cell[3].step(wish)
    assert cell[3].role is ServerState.FOLLOWER


def test_a_wish_for_an_earlier_life_of_the_target_is_void() -> None:
    """A restart forgets how new the leader's messages were; the leader trusts its lease again."""
    cell = Cell(3)
    leader = cell.elect(1)
    leader.propose(b"x")
    cell.collect()
    (old_append,) = [m for m in cell.wire if m.to == 3]
    cell.settle()
    cell.tick(3)
    cell.drop = lambda m: m.kind is MessageKind.TIMEOUT_NOW
    leader.transfer_leadership(3)
    cell.tick(4)
    assert cell.peers[1].lease_valid
    (wish,) = [m for m in cell.dropped if m.kind is MessageKind.TIMEOUT_NOW]
    cell.peers[3].restart()
    cell[3].step(old_append)
    cell[3].step(wish)
    assert cell[3].role is ServerState.FOLLOWER


def test_leadership_goes_to_a_peer_that_restarted_in_this_term() -> None:
    """As in every rolling upgrade."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.peers[3].restart()
    cell.tick(3)
    leader.transfer_leadership(3)
    cell.settle()
    assert cell.leaders() == [3]


def test_stepping_down_ends_a_transfer() -> None:
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(3)
    leader.transfer_leadership(3)
    leader.step_down()
    assert (leader.role, leader.transferring_to) == (ServerState.FOLLOWER, 0)
