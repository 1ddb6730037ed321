"""How a cell changes, on a cell that is only a book, a membership and some liveness.

Method: ``Stage`` carries out what the leader decides, as the ledger and the core would: a record
counts when it has committed, a change of the membership too, and whatever a leader proposed may get
lost with it. ``hypothesis`` chooses what dies, comes back, is asked for and when leaders change;
after each step no two voters are of one peer, and the cell could always commit what it did. In the
end everybody is up, and every change must come to its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer.cell import PEERS_MAX
from ha_scheduler.peer.membership import (
    Change,
    Changes,
    HandOver,
    Name,
    Refused,
    Seen,
    check_invariants,
    gone_reason,
)
from ha_scheduler.raft import InvariantViolationError, Membership
from ha_scheduler.raft.membership import MembershipChange, changed

ROUND_S = 0.6
TICK_S = 0.05


def disk(peer: int, name: str, **given: Any) -> PeerNamed:
    fields = {"host": f"h{name}", "peer_port": 1, "dask_port": 2, "witness": False, "gone": ""}
    return PeerNamed(peer=peer, disk=peer * 10, name=name, **{**fields, **given})


@dataclass
class Stage:
    """A cell of founders a, b and c with ids 1, 2 and 3; 1 leads."""

    membership: Membership = field(default_factory=lambda: Membership((1, 2, 3)))
    rows: dict[int, PeerNamed] = field(default_factory=dict)
    founders: tuple[PeerNamed, ...] = tuple(disk(n, "abc"[n - 1]) for n in (1, 2, 3))
    live: set[int] = field(default_factory=lambda: {1, 2, 3})
    said: dict[int, PeerNamed] = field(default_factory=dict)
    match: dict[int, int] = field(default_factory=dict)
    last_index: int = 100
    leader: int = 1
    now: float = 0.0
    handed_over: int = 0

    def __post_init__(self) -> None:
        self.changes = Changes(ROUND_S)
        self.pending: Name | Change | None = None
        self.former = self.membership  # before the change that is pending
        self.past: list[tuple[float, int]] = []  # what the log held, and when

    def seen(self) -> Seen:
        unrecorded = tuple(f for f in self.founders if f.peer not in self.rows)
        return Seen(
            now=self.now,
            date="today",
            own=self.leader,
            voters=self.membership.voters,
            learners=self.membership.learners,
            last_index=self.last_index,
            match=self.match,
            live=self.live,
            disks=(*unrecorded, *self.rows.values()),
            recorded=set(self.rows),
            said={peer: said for peer, said in self.said.items() if peer in self.live},
        )

    def tick(self) -> Any:
        """The leader decides, and what it decided the time before has committed."""
        self.now += TICK_S
        self.past.append((self.now, self.last_index))
        if self.pending is not None:
            if not self.seen().can_commit(self.membership.voters):
                return None
            self.commit(self.pending)
        effect = self.changes.step(self.seen())
        if isinstance(effect, HandOver):
            self.hand_over()
        else:
            self.pending = effect
        if isinstance(effect, Change):
            self.append(effect)
        return effect

    def append(self, effect: Change) -> None:
        """A change of the membership is in force from here on, committed or not."""
        before, self.former = self.membership, self.membership
        self.membership = changed(before, MembershipChange(effect.kind, effect.peer))
        assert self.seen().can_commit(self.membership.voters), "it would stop the cell"
        promoted = set(self.membership.voters) - set(before.voters)
        floor = max((last for at, last in self.past if at < self.now - ROUND_S), default=0)
        assert all(self.match.get(p, 0) >= floor for p in promoted), "it is far behind"
        check_invariants(self.seen())

    def commit(self, effect: Name | Change) -> None:
        if isinstance(effect, Name):
            self.rows.pop(effect.record.peer, None)
            self.rows[effect.record.peer] = effect.record
        self.last_index += 1
        self.pending = None
        check_invariants(self.seen())

    def hand_over(self) -> None:
        heirs = (set(self.membership.voters) & self.live) - {self.leader}
        if heirs:
            self.handed_over += 1
            self.lead(min(heirs, key=lambda peer: (peer in self.leaving(), peer)))

    def leaving(self) -> set[int]:
        return {peer for peer, row in self.rows.items() if row.gone}

    def lead(self, leader: int) -> None:
        """Another leads; what was proposed and has not committed is lost."""
        if isinstance(self.pending, Change):
            self.membership = self.former
        self.leader, self.pending, self.changes = leader, None, Changes(ROUND_S)

    def catch_up(self) -> None:
        for peer in self.live:
            self.match[peer] = self.last_index

    def run(self, ticks: int = 60) -> list[Any]:
        """Everybody live catches up at once, and time passes. What was done."""
        done = []
        for _ in range(ticks):
            done.append(self.tick())
            self.catch_up()
        return [effect for effect in done if effect is not None]

    def ask(self, answer: Name | Refused | None) -> Refused | None:
        if isinstance(answer, Name):
            self.pending = answer
        return answer if isinstance(answer, Refused) else None

    def join(self, new: PeerNamed, replacing: bool | None = False) -> Refused | None:
        return self.ask(self.changes.join(new, replacing, self.seen()))

    def remove(self, name: str) -> Refused | None:
        return self.ask(self.changes.remove(name, self.seen()))

    def begins(self, new: PeerNamed) -> PeerNamed:
        """A process with this disk runs."""
        self.live.add(new.peer)
        self.said[new.peer] = new
        return new


@pytest.fixture
def stage() -> Stage:
    return Stage()


def kinds(done: list[Any]) -> list[str]:
    return [e.kind.name if isinstance(e, Change) else type(e).__name__ for e in done]


def test_a_lost_disk_goes_before_its_successor_votes(stage: Stage) -> None:
    stage.live.discard(3)
    new = stage.begins(disk(9, "c"))
    assert stage.join(new, replacing=True) is None
    done = stage.run()
    assert kinds(done) == ["ADD_LEARNER", "Name", "REMOVE", "ADD_VOTER"]
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
    assert refused == Refused(gone_reason(stage.rows[3]))
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
    assert kinds(stage.run()) == ["Name"] * 3
    stage.said[2] = replace(stage.founders[1], dask_port=99)
    assert kinds(stage.run()) == ["Name"], "its Dask port is another one now"
    assert stage.rows[2].dask_port == 99


def test_two_voters_of_one_peer_are_an_impossible_state(stage: Stage) -> None:
    stage.rows[9] = disk(9, "c")
    stage.membership = Membership((1, 2, 3, 9))
    with pytest.raises(InvariantViolationError, match="two voters of one peer"):
        check_invariants(stage.seen())


MOVES = st.one_of(
    st.tuples(st.just("tick"), st.integers(1, 8)),
    st.tuples(st.just("catch_up"), st.none()),
    st.tuples(st.just("write"), st.integers(1, 500)),
    st.tuples(st.just("lead"), st.integers(0, 6)),
    st.tuples(st.just("die"), st.integers(0, 6)),
    st.tuples(st.just("revive"), st.integers(0, 6)),
    st.tuples(st.just("lose_disk"), st.sampled_from("abcde")),
    st.tuples(st.just("add"), st.sampled_from("abcde")),
    st.tuples(st.just("remove"), st.sampled_from("abcde")),
)


class Story:
    """Interprets moves on a stage, never beyond what a cell survives."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.fresh = 10
        self.lost: set[int] = set()
        self.wishes: dict[int, tuple[PeerNamed, bool]] = {}
        for founder in self.stage.founders:
            self.stage.said[founder.peer] = founder

    def move(self, what: str, value: Any) -> None:
        getattr(self, "on_" + what)(value)
        check_invariants(self.stage.seen())

    def on_tick(self, count: int) -> None:
        for _ in range(count):
            self.ask_again()
            self.stage.tick()

    def ask_again(self) -> None:
        """A new disk repeats its wish until the book has it, whoever leads then."""
        for peer, (new, replacing) in list(self.wishes.items()):
            if self.stage.pending is None and peer not in self.stage.rows:
                refused = self.stage.join(new, replacing)
                if refused is not None and not refused.passing:
                    del self.wishes[peer]

    def on_catch_up(self, _: None) -> None:
        self.stage.catch_up()

    def on_write(self, count: int) -> None:
        self.stage.last_index += count

    def on_lead(self, number: int) -> None:
        heirs = sorted(set(self.stage.membership.voters) & self.stage.live)
        if heirs:
            self.stage.lead(heirs[number % len(heirs)])

    def on_die(self, number: int) -> None:
        live = sorted(self.stage.live - {self.stage.leader})
        if not live:
            return
        peer = live[number % len(live)]
        self.stage.live.discard(peer)
        if not self.stage.seen().can_commit(self.stage.membership.voters):
            self.stage.live.add(peer)  # the cell would stop, and nothing would be decided

    def on_revive(self, number: int) -> None:
        dead = sorted(set(self.stage.said) - self.stage.live - self.lost)
        dead = [peer for peer in dead if not self.has_left(peer)]
        if dead:
            self.stage.live.add(dead[number % len(dead)])

    def has_left(self, peer: int) -> bool:
        """Whether the others refuse that disk."""
        row = self.stage.rows.get(peer)
        return row is not None and bool(row.gone) and peer not in self.stage.membership.peers

    def on_lose_disk(self, name: str) -> None:
        old = self.stage.seen().current(name)
        if old is None or old.peer in self.stage.live:
            return
        if self.enter(name, replacing=True):
            self.lost.add(old.peer)

    def on_add(self, name: str) -> None:
        self.enter(name, replacing=False)

    def enter(self, name: str, *, replacing: bool) -> bool:
        if self.stage.pending is not None:
            return False
        self.fresh += 1
        new = disk(self.fresh, name)
        if self.stage.join(new, replacing) is not None:
            return False
        self.stage.begins(new)
        self.wishes[new.peer] = (new, replacing)
        return True

    def on_remove(self, name: str) -> None:
        if self.stage.pending is None:
            self.stage.remove(name)


@settings(max_examples=200, deadline=None)
@given(st.lists(MOVES, max_size=60))
def test_whatever_happens_no_peer_votes_twice_and_every_change_ends(moves: list[Any]) -> None:
    story = Story()
    for what, value in moves:
        story.move(what, value)
    stage = story.stage
    stage.live |= {p for p in stage.said if p not in story.lost and not story.has_left(p)}
    for _ in range(300):
        story.move("tick", 1)
        story.move("catch_up", None)
    seen = stage.seen()
    assert not stage.membership.learners or stage.changes.waiting, stage.membership
    newest = {d.name: d.peer for d in seen.disks if not d.gone and d.peer in seen.recorded}
    for name, peer in newest.items():
        if peer in stage.live:
            assert peer in stage.membership.voters, (name, stage.changes.waiting)
    assert not [p for p in stage.membership.peers if (r := stage.rows.get(p)) and r.gone], (
        stage.changes.waiting
    )
