"""How a cell changes: what the leader decides on a ``Stage``, case by case."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from stage import ROUND_S, Stage, disk

from ha_scheduler.cell.peers import PEERS_MAX
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer.members.membership import (
    ChangeMembership,
    check_invariants,
    gone_reason,
)
from ha_scheduler.protocol.control import Declined
from ha_scheduler.raft.errors import InvariantViolationError
from ha_scheduler.raft.messages import Membership


@pytest.fixture
def stage() -> Stage:
    return Stage()


def kinds(done: list[Any]) -> list[str]:
    return [e.kind.name if isinstance(e, ChangeMembership) else type(e).__name__ for e in done]


def test_a_lost_disk_goes_before_its_successor_votes(stage: Stage) -> None:
    stage.live.discard(3)
    new = stage.begins(disk(9, "c"))
    assert stage.join(new, replacing=True) is None
    done = stage.run()
    assert kinds(done) == ["ADD_LEARNER", "NamePeer", "REMOVE", "ADD_VOTER"]
    assert done[1].record == replace(disk(3, "c"), gone="was replaced on today")
    assert stage.membership == Membership((1, 2, 9))
    assert stage.changes.waiting == ""
    assert stage.changes.join(new, None, stage.seen()) is None, "asking again changes nothing"


def test_a_disk_that_is_in_use_is_not_replaced(stage: Stage) -> None:
    new = disk(9, "c")
    refused = stage.join(new, replacing=True)
    assert refused is not None
    assert refused.passing, "it may just have been stopped"
    assert "in use" in refused.reason


def test_a_replace_waits_when_the_old_disk_comes_back_to_life(stage: Stage) -> None:
    stage.live.discard(3)
    assert stage.join(stage.begins(disk(9, "c")), replacing=True) is None
    stage.tick()
    stage.tick()
    stage.live.add(3)
    stage.run()
    assert stage.membership == Membership((1, 2, 3), (9,))
    assert "in use" in stage.changes.waiting
    stage.live.discard(3)
    stage.run()
    assert stage.membership == Membership((1, 2, 9))


def test_a_disk_called_gone_that_cannot_be_removed_yet_still_bars_its_successor(
    stage: Stage,
) -> None:
    stage.live.discard(3)
    new = stage.begins(disk(9, "c"))
    assert stage.join(new, replacing=True) is None
    while not (row := stage.rows.get(3)) or not row.gone:
        stage.tick()
        stage.catch_up()
    stage.lead(1)  # the leader died before the old disk's removal committed
    stage.live = {1, 3, 9}  # and that disk comes back
    stage.run()
    assert stage.membership == Membership((1, 2, 3), (9,))
    assert "no majority" in stage.changes.waiting
    stage.live = {1, 2, 9}
    stage.run()
    assert stage.membership == Membership((1, 2, 9))


def test_a_learner_that_does_not_catch_up_is_never_promoted(stage: Stage) -> None:
    assert stage.join(stage.begins(disk(4, "d"))) is None
    for _ in range(200):
        stage.tick()
        stage.last_index += 10
        stage.match[4] = stage.last_index - 150  # three rounds' worth behind, for ever
    assert stage.membership == Membership((1, 2, 3), (4,))
    assert "150 entries behind" in stage.changes.waiting
    stage.run()
    assert stage.membership == Membership((1, 2, 3, 4))


def test_a_round_that_took_too_long_does_not_count(stage: Stage) -> None:
    assert stage.join(stage.begins(disk(4, "d"))) is None
    while stage.membership.learners != (4,):
        stage.tick()
    stage.tick()
    stage.now += ROUND_S
    stage.catch_up()
    assert stage.tick() is None, "the first round was slow"
    assert kinds([stage.tick()]) == ["ADD_VOTER"], "the second one was not"


def test_a_second_lost_disk_supersedes_the_first_successor(stage: Stage) -> None:
    stage.live.discard(3)
    assert stage.join(stage.begins(disk(8, "c")), replacing=True) is None
    stage.tick()
    stage.tick()
    stage.live.discard(8)
    assert stage.join(stage.begins(disk(9, "c")), replacing=True) is None
    stage.run()
    assert stage.membership == Membership((1, 2, 9))
    assert stage.rows[8].gone
    assert stage.rows[3].gone


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_new_leader_goes_on_from_every_step_of_a_replace(steps: int) -> None:
    for lost in (False, True):
        stage = Stage()
        stage.live.discard(3)
        assert stage.join(stage.begins(disk(9, "c")), replacing=True) is None
        for _ in range(steps):
            stage.tick()
            stage.catch_up()
        if stage.pending is not None and not lost:
            stage.commit(stage.pending)
        stage.lead(2)
        if 9 not in stage.rows:  # lost with its leader: the new disk asks until it is in
            assert stage.join(disk(9, "c"), replacing=True) is None
        stage.run()
        assert stage.membership == Membership((1, 2, 9)), (steps, lost)


def test_a_leader_that_is_removed_hands_over_and_its_successor_goes_on(stage: Stage) -> None:
    assert stage.remove("a") is None
    done = stage.run()
    assert kinds(done)[0] == "HandOver"
    assert stage.handed_over == 1
    assert stage.membership == Membership((2, 3))


def test_what_would_leave_no_majority_alive_is_refused(stage: Stage) -> None:
    stage.live.discard(3)
    refused = stage.remove("b")
    assert refused is not None
    assert "1 of 2 voters would be live" in refused.reason
    assert stage.remove("c") is None, "the dead one may go"
    stage.run()
    assert stage.membership == Membership((1, 2))
    assert stage.remove("b") is None
    stage.run()
    refused = stage.remove("a")
    assert refused is not None
    assert "last voter" in refused.reason


def test_a_peer_that_left_comes_back_with_a_new_disk_only(stage: Stage) -> None:
    assert stage.remove("c") is None
    stage.run()
    refused = stage.join(disk(3, "c"))
    assert refused == Declined(gone_reason(stage.rows[3]))
    assert "was removed on today" in refused.reason
    assert "--join" in refused.reason
    assert stage.join(stage.begins(disk(9, "c"))) is None
    stage.run()
    assert stage.membership == Membership((1, 2, 9))


@pytest.mark.parametrize(
    ("new", "replacing", "reason"),
    [
        (disk(9, "c"), False, "use --replace"),
        (disk(9, "d"), True, "use --join"),
        (disk(9, "d"), None, "--join or --replace"),
        (disk(9, "d", host="ha", peer_port=2, dask_port=7), False, "peer a has port 2 of ha"),
    ],
)
def test_wishes_that_make_no_sense_say_what_would(
    stage: Stage, new: PeerNamed, replacing: bool | None, reason: str
) -> None:
    refused = stage.join(new, replacing)
    assert refused is not None
    assert reason in refused.reason
    assert not refused.passing


def test_one_change_at_a_time_and_no_more_peers_than_the_limit(stage: Stage) -> None:
    assert stage.join(stage.begins(disk(4, "d"))) is None
    stage.tick()
    for refused in (stage.join(disk(5, "e")), stage.remove("b")):
        assert refused is not None
        assert "one at a time" in refused.reason
    stage.run()
    for number in range(5, PEERS_MAX + 1):
        assert stage.join(stage.begins(disk(number, f"n{number}"))) is None
        stage.run()
    refused = stage.join(disk(20, "one-more"))
    assert refused is not None
    assert "limit" in refused.reason


def test_a_lost_disk_is_replaced_though_a_removal_waits_for_it(stage: Stage) -> None:
    assert stage.remove("a") is None
    stage.live.discard(2)
    stage.run()
    assert "without peer a no majority" in stage.changes.waiting
    assert stage.join(stage.begins(disk(9, "b")), replacing=True) is None
    stage.run()
    assert stage.membership == Membership((3, 9))


def test_the_last_peer_that_keeps_the_ledger_stays() -> None:
    stage = Stage(membership=Membership((2, 3)), leader=3, live={2, 3})
    stage.founders = (disk(2, "b"), disk(3, "c", witness=True))
    refused = stage.remove("b")
    assert refused is not None
    assert "keeps the ledger" in refused.reason
    assert not refused.passing
    assert stage.remove("c") is None

    # Nor does a witness take its place.
    founders = (disk(1, "a"), *(disk(n, f"w{n}", witness=True) for n in (2, 3)))
    stage = Stage(founders=founders, live={2, 3}, leader=2)
    refused = stage.join(disk(9, "a", witness=True), replacing=True)
    assert refused is not None
    assert "keeps the ledger" in refused.reason
    assert stage.join(disk(9, "a"), replacing=True) is None

    # Another one that keeps it, and is down, is not enough: what it lacks may be nowhere else.
    founders = (disk(1, "a"), disk(2, "b"), *(disk(n, f"w{n}", witness=True) for n in (3, 4)))
    stage = Stage(Membership((1, 2, 3, 4)), founders=founders, live={1, 3, 4}, leader=3)
    refused = stage.remove("a")
    assert refused is not None
    assert "keeps the ledger" in refused.reason
    stage.live.add(2)
    assert stage.remove("a") is None
    stage.live = {1, 3, 4}
    stage.run()
    assert 1 in stage.membership.voters
    assert "keeps the ledger" in stage.changes.waiting


def test_witnesses_stay_fewer_than_half() -> None:
    founders = (disk(1, "a"), disk(2, "b"), disk(3, "w", witness=True))
    stage = Stage(founders=founders)
    refused = stage.join(disk(9, "v", witness=True), replacing=False)
    assert refused is not None
    assert "2 of 4 peers would be witnesses" in refused.reason
    assert stage.join(stage.begins(disk(9, "c")), replacing=False) is None
    stage.run()
    assert stage.join(disk(8, "v", witness=True), replacing=False) is None


def test_what_another_disk_says_under_the_same_id_is_not_written_down(stage: Stage) -> None:
    for founder in stage.founders:
        stage.begins(founder)
    stage.run()
    stage.begins(replace(stage.rows[3], disk=31, dask_port=7))
    stage.run()
    assert stage.rows[3].disk == 30


def test_members_that_call_are_written_down_once(stage: Stage) -> None:
    for founder in stage.founders:
        stage.begins(founder)
    assert kinds(stage.run()) == ["NamePeer"] * 3
    stage.said[2] = replace(stage.founders[1], dask_port=99)
    assert kinds(stage.run()) == ["NamePeer"], "its Dask port is another one now"
    assert stage.rows[2].dask_port == 99


def test_two_voters_of_one_peer_are_an_impossible_state(stage: Stage) -> None:
    stage.rows[9] = disk(9, "c")
    stage.membership = Membership((1, 2, 3, 9))
    with pytest.raises(InvariantViolationError, match="two voters of one peer"):
        check_invariants(stage.seen())
