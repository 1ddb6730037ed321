"""Chapter 4 (membership: one peer at a time, effective on append), sentence by sentence."""

from __future__ import annotations

import random

import pytest

from ha_scheduler.raft.config import Config
from ha_scheduler.raft.errors import LogCorruptionError, MembershipChangeError, ProposalDroppedError
from ha_scheduler.raft.membership import (
    ChangeKind,
    MembershipChange,
    decode_membership,
    encode_membership,
)
from ha_scheduler.raft.messages import (
    Entry,
    EntryKind,
    Membership,
    Message,
    MessageKind,
    ServerState,
)
from ha_scheduler.raft.node import RawNode
from ha_scheduler.raft.progress import ProgressState
from tests.twins.log import MemoryLog

from .harness import TICKS, Cell, log_of

THREE = Membership((1, 2, 3))


def add(peer: int) -> MembershipChange:
    return MembershipChange(ChangeKind.ADD_VOTER, peer)


def learn(peer: int) -> MembershipChange:
    return MembershipChange(ChangeKind.ADD_LEARNER, peer)


def remove(peer: int) -> MembershipChange:
    return MembershipChange(ChangeKind.REMOVE, peer)


def test_a_new_membership_is_in_force_as_soon_as_it_is_appended() -> None:
    """4.1: on each server, whether or not the entry is committed."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(2, 3)
    leader.propose_membership(remove(3))
    assert leader.membership == Membership((1, 2))
    assert leader.commit == 1


def test_the_new_majority_counts_for_the_change_itself() -> None:
    """4.1: C_new is committed by a majority of C_new."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.join(4)
    before = leader.commit
    cell.isolate(2, 4)
    leader.propose_membership(add(4))
    cell.settle()
    assert leader.commit == before
    cell.heal()
    cell.tick(4)
    assert leader.commit == before + 1


def test_a_second_change_waits_until_the_first_is_committed() -> None:
    """4.1: or two majorities without common member could exist."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(2, 3)
    leader.propose_membership(learn(4))
    with pytest.raises(MembershipChangeError, match="one at a time"):
        leader.propose_membership(learn(5))


def test_a_change_inherited_from_an_older_leader_also_counts_as_pending() -> None:
    """4.1."""
    log = log_of([1], THREE, term=1)
    log.append([Entry(1, 2, EntryKind.CONF_CHANGE, encode_membership(Membership((1, 2, 3, 4))))])
    cell = Cell(0, check_quorum=False)
    cell.add_peer(1, THREE, log)
    for peer in (2, 3):
        cell.add_peer(peer, THREE, log_of([1], THREE, term=1))
    assert cell[1].membership.voters == (1, 2, 3, 4)
    cell.drop = lambda m: m.kind is MessageKind.APPEND
    cell.elect(1)
    with pytest.raises(MembershipChangeError):
        cell[1].propose_membership(learn(5))


def test_a_leader_first_commits_an_entry_of_its_own_term() -> None:
    """4.1, erratum of 2015 (Ongaro, raft-dev): else an older pending change may come alive."""
    cell = Cell(3)
    cell.elect(1).transfer_leadership(2)
    cell.drop = lambda m: m.kind is MessageKind.APPEND
    cell.settle()
    leader = cell[2]
    with pytest.raises(MembershipChangeError, match="erratum"):
        leader.propose_membership(learn(4))
    cell.heal()
    cell.tick(4)
    leader.propose_membership(learn(4))


def test_a_truncated_change_brings_the_old_membership_back() -> None:
    """4.1: a server falls back to the previous configuration in its log."""
    cell = Cell(3, check_quorum=False)
    old = cell.elect(1)
    cell.isolate(1)
    old.propose_membership(learn(4))
    cell.settle()
    assert old.membership.learners == (4,)
    cell.elect(2)
    cell.heal()
    cell.tick(5)
    assert old.membership == THREE
    assert old.last_index == cell[2].last_index


def test_the_membership_of_the_log_is_in_force_after_a_restart() -> None:
    """4.1."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(2, 3)
    leader.propose_membership(remove(3))
    cell.settle()
    cell.peers[1].restart()
    assert cell[1].membership.voters == (1, 2)
    assert cell[1].applied == 1


def test_a_change_truncated_after_a_restart_is_gone_for_good() -> None:
    """4.1: and the peer campaigns by the membership that it fell back to."""
    log = log_of([1], THREE, term=1, commit=1)
    four = encode_membership(Membership((1, 2, 3, 4)))
    log.append([Entry(1, 2, EntryKind.CONF_CHANGE, four)])
    node = RawNode(Config(peer_id=1, **TICKS), log, random.Random(1))
    assert node.membership.voters == (1, 2, 3, 4)
    entry = Entry(2, 2, EntryKind.NORMAL, b"")
    node.step(Message(MessageKind.APPEND, 1, 2, 2, log_term=1, index=1, entries=(entry,), round=1))
    assert node.membership == THREE
    ready = node.ready()
    assert ready.hard_state is not None
    log.set_hard_state(ready.hard_state)
    log.append(ready.entries)
    again = RawNode(Config(peer_id=1, **TICKS), log, random.Random(1))
    again.campaign()
    assert [m.to for m in again.ready().messages] == [2, 3]


def test_nobody_is_removed_whose_vote_is_needed_beside_a_peer_never_heard() -> None:
    cell = Cell(3)
    cell.isolate(3)
    leader = cell.elect(1)
    cell.tick(3)
    with pytest.raises(MembershipChangeError, match=r"only \[1\] answered"):
        leader.propose_membership(remove(2))


def test_the_lease_counts_by_the_newest_membership() -> None:
    """6.4.1 with 4.1: three of four, from the append on, though the change is not committed."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.join(4)
    cell.tick(3)
    cell.isolate(3, 4)
    leader.propose_membership(add(4))
    cell.tick(9)
    assert leader.role is ServerState.LEADER
    assert not cell.peers[1].lease_valid or leader.commit == leader.last_index
    cell.tick(5)
    assert leader.role is ServerState.FOLLOWER


def test_a_new_server_joins_as_learner_catches_up_and_becomes_voter() -> None:
    """4.2.1."""
    cell = Cell(3)
    leader = cell.elect(1)
    leader.propose_batch([b"%d" % n for n in range(10)])
    leader.propose_membership(learn(4))
    cell.add_peer(4, Membership(()))
    cell.tick(5)
    assert cell.data(4) == [b"%d" % n for n in range(10)]
    assert cell[4].membership == Membership((1, 2, 3), (4,))
    leader.propose_membership(add(4))
    cell.tick(5)
    assert cell[4].membership == Membership((1, 2, 3, 4))


def test_a_peer_that_is_no_learner_yet_does_not_become_a_voter() -> None:
    """4.2.1: it has nothing, and a majority that needs it would wait for all of the log."""
    leader = Cell(3).elect(1)
    leader.tick()
    with pytest.raises(MembershipChangeError, match="peer 4 is no learner"):
        leader.propose_membership(add(4))


def test_a_learner_that_is_not_caught_up_does_not_become_a_voter() -> None:
    """4.2.1: and the refusal gives the figures."""
    cell = Cell(3, max_append_bytes=100, max_inflight_messages=1, max_inflight_bytes=100)
    leader = cell.elect(1)
    leader.propose_batch([b"x" * 68] * 50)
    leader.propose_membership(learn(4))
    cell.add_peer(4, Membership(()))
    cell.tick(4)
    cell.drop = lambda m: m.kind is MessageKind.APPEND and m.to == 4
    cell.tick(20)
    leader.propose_batch([b"y" * 68] * 50)
    cell.tick(13)
    with pytest.raises(MembershipChangeError, match=r"up to 52 of 102; .* ended at 102") as why:
        leader.propose_membership(add(4))
    assert "promotion_lag_ticks is 12" in str(why.value)
    cell.heal()
    cell.tick(110)
    leader.propose_membership(add(4))


def test_a_learner_that_keeps_up_is_promoted_though_it_never_has_the_last_entry() -> None:
    """4.2.1: what counts is that it was up to date an election timeout ago."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.join(4)
    leader.propose(b"not there yet")
    assert leader.progress()[3].match < leader.last_index
    leader.propose_membership(add(4))


def test_a_learner_that_fell_silent_does_not_become_a_voter() -> None:
    """4.2.1: the leader gives a change up whose new server is unavailable."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.join(4)
    cell.isolate(4)
    cell.tick(15)
    with pytest.raises(MembershipChangeError, match="not answered anything"):
        leader.propose_membership(add(4))


def test_answers_from_before_a_peer_was_removed_do_not_count_for_it_when_it_is_back() -> None:
    """It may have been removed because its disk was lost: then it has nothing of what it said."""
    cell = Cell(3)
    leader = cell.elect(1)
    leader.propose(b"x")
    cell.collect()
    cell.deliver()
    cell.collect()
    late = [m for m in cell.wire if m.source == 3 and m.kind is MessageKind.APPEND_RESPONSE]
    assert [m.index for m in late] == [2]
    cell.settle()
    cell.isolate(3)
    leader.propose_membership(remove(3))
    cell.settle()
    leader.propose_membership(learn(3))
    cell.settle()
    for message in late:
        leader.step(message)
    assert leader.progress()[2].match == 0


def test_a_peer_that_comes_back_under_the_same_id_catches_up_from_nothing() -> None:
    cell = Cell(3)
    leader = cell.elect(1)
    leader.propose_batch([b"%d" % n for n in range(10)])
    cell.settle()
    leader.propose_membership(remove(3))
    cell.settle()
    for peer in (1, 2):
        cell.peers[peer].log.compact(8)
    cell.join(3)
    assert cell[3].commit == leader.commit
    leader.propose_membership(add(3))
    cell.settle()
    assert leader.membership == THREE


def test_a_learner_removed_while_a_snapshot_goes_to_it_leaves_nothing_behind() -> None:
    """And one added again under its id does not take the end of the old stream for its own."""
    cell = Cell(3)
    leader = cell.elect(1)
    leader.propose_batch([b"%d" % n for n in range(10)])
    cell.settle()
    cell.peers[1].log.compact(8)
    leader.propose_membership(learn(4))
    cell.add_peer(4, Membership(()))
    cell.drop = lambda m: m.kind is MessageKind.SNAPSHOT
    cell.tick(4)
    assert leader.progress()[3].state is ProgressState.SNAPSHOT
    leader.propose_membership(remove(4))
    cell.settle()
    leader.report_snapshot(4, ok=True)
    leader.report_unreachable(4)
    assert len(leader.progress()) == 3
    cell.add_peer(4, Membership(()))
    leader.propose_membership(learn(4))
    cell.tick(4)
    leader.report_snapshot(4, ok=True)
    cell.heal()
    cell.tick(6)
    assert cell[4].commit == leader.commit


def test_a_change_that_leaves_no_majority_that_answers_is_refused() -> None:
    """An operator who removes the wrong peer would stop the cell for good."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(3)
    cell.tick(15)
    with pytest.raises(MembershipChangeError, match=r"leave the voters \(1, 3\).*only \[1\]"):
        leader.propose_membership(remove(2))
    leader.propose_membership(remove(3))
    cell.settle()
    assert leader.membership == Membership((1, 2))


def test_a_learner_does_not_count_for_commitment_nor_for_the_quorum() -> None:
    """4.2.1: a non-voting member is not counted in majorities."""
    cell = Cell(3)
    leader = cell.elect(1)
    leader.propose_membership(learn(4))
    cell.add_peer(4, Membership(()))
    cell.tick(3)
    cell.isolate(2, 3)
    before = leader.commit
    leader.propose(b"x")
    cell.settle()
    assert leader.commit == before
    cell.tick(13, 1, 4)
    assert leader.role is ServerState.FOLLOWER


def test_a_leader_that_removes_itself_leads_until_the_change_is_committed() -> None:
    """4.2.2: replicating, but not counting itself."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(2)
    leader.propose_membership(remove(1))
    cell.settle()
    assert (leader.role, leader.commit) == (ServerState.LEADER, 1)
    with pytest.raises(ProposalDroppedError):
        leader.propose(b"x")
    cell.heal()
    cell.tick(3)
    assert leader.role is ServerState.FOLLOWER
    assert cell.leaders() in ([2], [3])


def test_a_removed_leader_hands_over_without_an_election_timeout() -> None:
    """4.2.2: it could also transfer leadership."""
    cell = Cell(3)
    cell.elect(1).propose_membership(remove(1))
    cell.settle()
    (leader,) = cell.leaders()
    assert leader != 1
    assert cell[leader].commit == cell[leader].last_index


def test_a_server_removed_by_an_uncommitted_change_may_still_be_needed_as_candidate() -> None:
    """4.2.2: otherwise a two-server cell that removes its leader could stop for ever."""
    cell = Cell(2, check_quorum=False)
    cell.elect(1)
    cell.drop = lambda m: m.kind is MessageKind.APPEND
    cell[1].propose_membership(remove(1))
    cell.settle()
    cell[1].step_down()
    cell.heal()
    cell.tick(100)
    assert cell[2].membership == Membership((2,))
    assert cell[2].role is ServerState.LEADER


def test_a_removed_server_does_not_disturb_the_cell() -> None:
    """4.2.3."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.drop = lambda m: m.to == 3
    leader.propose_membership(remove(3))
    cell.settle()
    cell.heal()
    cell.tick(100)
    assert cell.leaders() == [1]
    assert leader.term == 1


@pytest.mark.parametrize(
    "change", [add(1), remove(9), learn(0)], ids=["already a voter", "no member", "no peer id"]
)
def test_a_change_that_makes_no_sense_is_refused(change: MembershipChange) -> None:
    cell = Cell(3)
    leader = cell.elect(1)
    with pytest.raises(MembershipChangeError):
        leader.propose_membership(change)
    assert leader.last_index == 1


@pytest.mark.parametrize("change", [remove(1), learn(1)])
def test_the_last_voter_stays(change: MembershipChange) -> None:
    cell = Cell(1)
    leader = cell.elect(1)
    with pytest.raises(MembershipChangeError, match="last voter"):
        leader.propose_membership(change)


def test_removing_an_unreachable_peer_lets_waiting_entries_commit() -> None:
    cell = Cell(2)
    leader = cell.elect(1)
    cell.join(3)
    leader.propose_membership(add(3))
    cell.isolate(3)
    leader.propose(b"x")
    cell.settle()
    leader.propose_membership(remove(3))
    cell.settle()
    assert leader.commit == leader.last_index


def test_the_context_of_a_change_reaches_every_peer() -> None:
    cell = Cell(3)
    change = MembershipChange(ChangeKind.ADD_LEARNER, 4, b"host:8786")
    cell.elect(1).propose_membership(change)
    cell.tick(3)
    (entry,) = [e for e in cell.peers[3].applied if e.kind is EntryKind.CONF_CHANGE]
    assert decode_membership(entry.data) == (Membership((1, 2, 3), (4,)), b"host:8786")


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x07" + bytes(8), b"\x01\x03" + bytes(7)])
def test_a_damaged_configuration_entry_is_reported(data: bytes) -> None:
    with pytest.raises(LogCorruptionError):
        decode_membership(data)


def test_a_peer_without_membership_waits_for_a_leader() -> None:
    node = RawNode(Config(peer_id=7, **TICKS), MemoryLog(Membership(())), random.Random(1))
    for _ in range(100):
        node.tick()
    assert node.role is ServerState.FOLLOWER
    node.step(Message(MessageKind.HEARTBEAT, 7, 1, 3, round=1))
    assert node.leader == 1
