"""Chapter 5 (log compaction): when the leader lacks what a follower needs."""

from __future__ import annotations

from ha_scheduler.raft.messages import Membership, Message, MessageKind, ServerState, SnapshotMeta
from ha_scheduler.raft.progress import ProgressState

from .harness import Cell, log_of
from .nodes import follower

THREE = Membership((1, 2, 3))


def lagging_cell() -> Cell:
    """Peer 3 missed ten entries that are compacted away since."""
    cell = Cell(3)
    leader = cell.elect(1)
    cell.isolate(3)
    leader.propose_batch([b"%d" % n for n in range(10)])
    cell.settle()
    for peer in (1, 2):
        cell.peers[peer].log.compact(8)
    return cell


def snapshot_message(index: int, term: int, message_term: int = 5) -> Message:
    meta = SnapshotMeta(index, term, Membership((1, 2, 3, 4)))
    return Message(MessageKind.SNAPSHOT, 1, 2, message_term, snapshot=meta, round=1)


def test_a_follower_that_needs_compacted_entries_gets_a_snapshot_and_then_the_rest() -> None:
    """5.1."""
    cell = lagging_cell()
    cell.heal()
    cell.drop = lambda m: m.kind is MessageKind.SNAPSHOT
    cell.tick(3)
    view = cell[1].progress()[2]
    assert (view.state, view.pending_snapshot) == (ProgressState.SNAPSHOT, 11)
    cell[1].propose(b"while it is on its way")
    cell.settle()
    (message,) = [m for m in cell.dropped if m.kind is MessageKind.SNAPSHOT]
    cell.heal()
    cell[3].step(message)
    cell.tick(3)
    assert cell[1].progress()[2].state is ProgressState.REPLICATE
    assert cell.data(3) == [b"while it is on its way"]
    assert cell[3].commit == 12


def test_a_failed_snapshot_is_tried_again_when_the_follower_shows_up() -> None:
    cell = lagging_cell()
    cell.heal()
    cell.drop = lambda m: m.kind is MessageKind.SNAPSHOT
    cell.tick(3)
    cell[1].report_snapshot(3, ok=False)
    cell.heal()
    cell.tick(4)
    assert cell[3].commit == 11


def test_no_snapshot_is_sent_to_a_peer_that_does_not_answer() -> None:
    cell = lagging_cell()
    cell.tick(13, 1, 2)
    cell[1].report_unreachable(3)
    cell[1].propose(b"x")
    cell.settle()
    assert all(m.kind is not MessageKind.SNAPSHOT for m in cell.dropped)


def test_a_leader_that_has_no_snapshot_to_give_lets_the_follower_wait() -> None:
    """A witness that leads for a moment keeps no ledger. It goes on leading, and asks again."""
    cell = lagging_cell()
    log = cell.peers[1].log
    given, log.snapshot = log.snapshot, lambda: None  # type: ignore[method-assign]
    cell.heal()
    cell.tick(30)
    assert cell.leaders() == [1]
    assert cell[3].commit == 1
    assert cell[1].progress()[2].state is ProgressState.PROBE
    cell[1].propose(b"the others go on")
    cell.settle()
    assert cell[2].commit == cell[1].commit == 12
    log.snapshot = given  # type: ignore[method-assign]
    cell.tick(4)
    assert cell[3].commit == 12


def test_a_snapshot_replaces_the_log_and_is_installed_before_anything_is_applied() -> None:
    """5.1."""
    node = follower(log_of([1, 1, 1], THREE, term=1))
    node.step(snapshot_message(9, 4))
    ready = node.ready()
    assert ready.snapshot == SnapshotMeta(9, 4, Membership((1, 2, 3, 4)))
    assert ready.must_sync
    assert ready.hard_state is not None
    assert ready.hard_state.commit == 9
    assert ready.committed == ()
    assert [m.index for m in ready.messages_after_persist] == [9]
    assert (node.last_index, node.first_index) == (9, 10)
    assert node.membership == Membership((1, 2, 3, 4))
    assert node.applied == 0
    node.persisted(ready.number)
    assert node.applied == 9


def test_a_snapshot_older_than_the_commit_index_is_ignored() -> None:
    """5.1."""
    node = follower(log_of([1, 1, 1], THREE, term=1, commit=3))
    node.step(snapshot_message(2, 1))
    ready = node.ready()
    assert ready.snapshot is None
    assert [m.index for m in ready.messages_after_persist] == [3]


def test_a_snapshot_from_before_the_compaction_point_is_ignored() -> None:
    log = log_of([1, 1, 1], THREE, term=1, commit=3)
    log.record_applied(3, THREE)
    log.compact(3)
    node = follower(log)
    node.step(snapshot_message(2, 1))
    assert node.ready().snapshot is None
    assert (node.commit, node.last_index) == (3, 3)


def test_a_snapshot_of_a_point_the_log_already_has_only_advances_the_commit_index() -> None:
    """5.1, figure 5.3 step 6: what follows it is retained."""
    node = follower(log_of([1, 1, 1], THREE, term=1))
    node.step(snapshot_message(2, 1))
    assert node.ready().snapshot is None
    assert (node.commit, node.last_index) == (2, 3)


def test_a_snapshot_of_an_older_leader_is_ignored() -> None:
    node = follower(log_of([1], THREE, term=7))
    node.step(snapshot_message(9, 4, message_term=6))
    assert not node.has_ready()


def test_a_peer_does_not_campaign_while_its_snapshot_is_not_installed() -> None:
    node = follower(log_of([1], THREE, term=1))
    node.step(snapshot_message(9, 4))
    node.ready()
    node.campaign()
    assert node.role is ServerState.FOLLOWER


def test_writes_from_before_a_snapshot_mark_nothing_durable_after_it() -> None:
    node = follower(log_of([1], THREE, term=1))
    node.step(snapshot_message(9, 4))
    first = node.ready()
    node.step(snapshot_message(20, 5))
    node.ready()
    node.persisted(first.number)
    assert node.applied == 0
    node.check_invariants()
    assert node.first_index == 21
