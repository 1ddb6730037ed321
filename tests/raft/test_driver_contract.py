"""What a driver may rely on: order within and between Readys, errors that change nothing."""

from __future__ import annotations

import random

import pytest

from ha_scheduler.raft.config import Config
from ha_scheduler.raft.errors import CallerError, MalformedMessageError, NotLeaderError
from ha_scheduler.raft.messages import Membership, Message, MessageKind, ServerState
from ha_scheduler.raft.node import RawNode
from ha_scheduler.raft.ready import SoftState
from tests.twins.log import MemoryLog

from .harness import TICKS, Cell

THREE = Membership((1, 2, 3))


def fresh(peer_id: int = 1) -> RawNode:
    return RawNode(Config(peer_id=peer_id, **TICKS), MemoryLog(THREE), random.Random(1))


def test_a_node_at_rest_has_nothing_ready() -> None:
    node = fresh()
    node.tick()
    assert not node.has_ready()


def test_readys_are_numbered_from_one_without_gaps() -> None:
    cell = Cell(3)
    cell.elect(1)
    cell.tick(5)
    numbers = [ready.number for ready in cell.peers[1].readies]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_change_of_leader_or_term_is_announced_once() -> None:
    cell = Cell(3)
    cell.elect(1)
    cell.tick(5)
    announced = [r.soft_state for r in cell.peers[2].readies if r.soft_state is not None]
    assert announced[-1] == SoftState(ServerState.FOLLOWER, 1, 1)
    assert len(announced) == len(set(announced))


def test_a_new_leadership_of_the_same_peer_is_announced_with_its_term() -> None:
    node = fresh()
    node.step(Message(MessageKind.HEARTBEAT, 1, 2, 1, round=1))
    node.ready()
    node.step(Message(MessageKind.HEARTBEAT, 1, 2, 4, round=1))
    assert node.ready().soft_state == SoftState(ServerState.FOLLOWER, 2, 4)


def test_acknowledgements_without_a_write_still_wait_for_earlier_writes() -> None:
    """Their Ready persists nothing, but what they acknowledge is in a Ready before it."""
    cell = Cell(3)
    leader = cell.elect(1)
    leader.propose(b"x")
    (append,) = [m for m in leader.ready().messages if m.to == 2]
    follower = cell[2]
    follower.step(append)
    first = follower.ready()
    follower.step(append)
    second = follower.ready()
    assert first.has_write
    assert not second.has_write
    assert second.messages == ()
    assert [m.index for m in second.messages_after_persist] == [2]


@pytest.mark.parametrize(
    "call",
    [
        lambda node: node.propose(b"x"),
        lambda node: node.transfer_leadership(2),
        lambda node: node.read_index(b"q"),
        lambda node: node.propose_batch([b"x"]),
    ],
)
def test_a_refused_call_changes_nothing(call: object) -> None:
    node = fresh()
    with pytest.raises(CallerError) as caught:
        call(node)  # type: ignore[operator]
    assert isinstance(caught.value, NotLeaderError)
    assert not node.has_ready()


def test_a_message_for_another_peer_is_refused() -> None:
    with pytest.raises(MalformedMessageError):
        fresh().step(Message(MessageKind.HEARTBEAT, 2, 3, 1))


def test_a_proposal_that_lost_its_leader_may_still_be_committed_by_the_next() -> None:
    """6.3: why an outcome can be unknown."""
    cell = Cell(3)
    leader = cell.elect(1)
    leader.propose(b"in doubt")
    cell.drop = lambda m: m.kind is MessageKind.APPEND_RESPONSE
    cell.settle()
    cell.isolate(1)
    cell.tick(40)
    assert leader.role is not ServerState.LEADER
    (successor,) = cell.leaders()
    assert cell.data(successor) == [b"in doubt"]


def test_a_proposal_that_lost_its_leader_may_also_vanish() -> None:
    """6.3."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(1)
    index = leader.propose(b"in doubt")
    cell.settle()
    cell.tick(40)
    cell.heal()
    cell.tick(10)
    assert leader.entry_term(index) > 1
    assert cell.data(1) == []


def test_a_cell_restarted_as_a_whole_goes_on_where_it_was() -> None:
    """3.8."""
    cell = Cell(3)
    cell.elect(1).propose(b"kept")
    cell.settle()
    cell.tick(4)
    for peer in cell.peers.values():
        peer.restart()
    assert [cell[p].commit for p in (1, 2, 3)] == [2, 2, 2]
    cell.tick(60)
    (leader,) = cell.leaders()
    cell[leader].propose(b"new")
    cell.settle()
    assert cell.data(leader) == [b"kept", b"new"]
