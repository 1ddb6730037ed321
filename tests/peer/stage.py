"""A cell that is only a book, a membership and some liveness.

``Stage`` carries out what the leader decides, as the ledger and the core would: a record counts
when it has committed, a change of the membership too, and whatever a leader proposed may get lost
with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer.members.membership import (
    ChangeMembership,
    Changes,
    HandOver,
    NamePeer,
    Seen,
    check_invariants,
)
from ha_scheduler.protocol.control import Declined
from ha_scheduler.raft.membership import MembershipChange, changed
from ha_scheduler.raft.messages import Membership

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
        self.pending: NamePeer | ChangeMembership | None = None
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
        if isinstance(effect, ChangeMembership):
            self.append(effect)
        return effect

    def append(self, effect: ChangeMembership) -> None:
        """A change of the membership is in force from here on, committed or not."""
        before, self.former = self.membership, self.membership
        self.membership = changed(before, MembershipChange(effect.kind, effect.peer))
        assert self.seen().can_commit(self.membership.voters), "it would stop the cell"
        promoted = set(self.membership.voters) - set(before.voters)
        floor = max((last for at, last in self.past if at < self.now - ROUND_S), default=0)
        assert all(self.match.get(p, 0) >= floor for p in promoted), "it is far behind"
        check_invariants(self.seen())

    def commit(self, effect: NamePeer | ChangeMembership) -> None:
        if isinstance(effect, NamePeer):
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
        if isinstance(self.pending, ChangeMembership):
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

    def ask(self, answer: NamePeer | Declined | None) -> Declined | None:
        if isinstance(answer, NamePeer):
            self.pending = answer
        return answer if isinstance(answer, Declined) else None

    def join(self, new: PeerNamed, replacing: bool | None = False) -> Declined | None:
        return self.ask(self.changes.join(new, replacing, self.seen()))

    def remove(self, name: str) -> Declined | None:
        return self.ask(self.changes.remove(name, self.seen()))

    def begins(self, new: PeerNamed) -> PeerNamed:
        """A process with this disk runs."""
        self.live.add(new.peer)
        self.said[new.peer] = new
        return new
