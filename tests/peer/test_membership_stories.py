"""How a cell changes, whatever happens meanwhile.

Method: ``hypothesis`` chooses what dies, comes back, is asked for and when leaders change on a
``Stage``; after each step no two voters are of one peer, and the cell could always commit what it
did. In the end everybody is up, and every change must come to its end.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from stage import Stage, disk

from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer.members.membership import (
    check_invariants,
)

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
        """A new disk repeats its wish until the peer table has it, whoever leads then."""
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
