"""The shortest way through the core: elect, replicate, lose the leader, go on."""

from __future__ import annotations

import pytest

from ha_scheduler.raft.errors import NotLeaderError
from ha_scheduler.raft.messages import ServerState

from .harness import Cell


def test_a_single_peer_leads_and_commits_by_itself() -> None:
    cell = Cell(1)
    cell.elect(1).propose(b"x")
    cell.settle()
    assert cell.data(1) == [b"x"]


def test_three_peers_apply_the_same_entries_in_order() -> None:
    cell = Cell(3)
    leader = cell.elect(1)
    indices = [leader.propose(b"%d" % n) for n in range(50)]
    cell.settle()
    cell.tick(4)
    assert indices == list(range(2, 52))
    for peer in (1, 2, 3):
        assert cell.data(peer) == [b"%d" % n for n in range(50)]


def test_a_batch_is_one_message_to_each_follower() -> None:
    """10.2.2."""
    cell = Cell(3)
    leader = cell.elect(1)
    assert leader.propose_batch([b"a", b"b", b"c"]) == range(2, 5)
    ready = leader.ready()
    assert [len(m.entries) for m in ready.messages] == [3, 3]


def test_another_peer_takes_over_when_the_leader_is_cut_off() -> None:
    """3.4 and 3.5."""
    cell = Cell(3)
    cell.elect(1).propose(b"before")
    cell.settle()
    cell.isolate(1)
    cell.tick(40)
    assert cell[1].role is not ServerState.LEADER
    (leader,) = cell.leaders()
    cell[leader].propose(b"after")
    cell.settle()
    cell.heal()
    cell.tick(10)
    assert cell.data(1) == [b"before", b"after"]


def test_a_follower_names_the_leader_when_asked_to_propose() -> None:
    """6.2."""
    cell = Cell(3)
    cell.elect(2)
    with pytest.raises(NotLeaderError) as caught:
        cell[1].propose(b"x")
    assert caught.value.leader_id == 2
