"""Reconfiguration: carries membership changes between the core, the peer table and the links.

Guarantee: a change is proposed only by the leader of the term, after everything proposed before it,
in this term or an earlier one, has committed and is known. ``membership.py`` decides; this is its
only interpreter.

**A disk that may have had a past.** A founder's id follows from its name, so an empty disk might
stand in for a lost one, and vote and acknowledge twice under one id. Such a disk is *mute*: it
takes in no message of the core, and no time passes for it, until

- a majority of the founding list, itself included, has an empty disk too: the cell begins; or
- another peer's peer table holds its id with this very disk: the leader records each member that
  calls, before the member has said anything that counts.

If the peer table holds another disk under its id, this one is an impostor and refused. Undetected:
a majority of the founders losing their disks at once; a disk restored to an older state.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from ha_scheduler.ledger import encoding
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer.consensus.driver import Driver
from ha_scheduler.peer.consensus.leadership import FRESH_S
from ha_scheduler.peer.members.membership import ChangeMembership, Changes, HandOver, NamePeer, Seen
from ha_scheduler.peer.members.roster import Roster
from ha_scheduler.peer.network.links import Links
from ha_scheduler.protocol.control import Declined, Member
from ha_scheduler.raft.errors import CallerError
from ha_scheduler.raft.membership import MembershipChange
from ha_scheduler.raft.messages import Entry, EntryKind, Membership, ServerState
from ha_scheduler.storage.port import PeerStore

logger = logging.getLogger(__name__)


class Reconfiguration:
    """Keeps roster, links and membership together."""

    def __init__(
        self,
        roster: Roster,
        store: PeerStore,
        round_s: float,
        heard_at: Callable[[int], float],
        hand_over: Callable[[], object],
        on_change: Callable[[], None],
    ) -> None:
        """``heard_at``: CLOCK_MONOTONIC of the last gossip of a peer; 0.0: never."""
        self.roster = roster
        self._store = store
        self._round_s = round_s
        self._heard_at = heard_at
        self._hand_over = hand_over
        self._on_change = on_change
        self._changes = Changes(round_s)
        self._said: dict[int, PeerNamed] = {roster.own.peer: roster.own}
        self._fresh: set[int] = set()  # founders with an empty disk
        self._term = 0  # that we lead; 0: none
        self._asked = 0  # the next change waits for the commit of this index
        self._committed = store.applied()
        self._membership: Membership | None = None  # of the links
        self.driver: Driver
        self.links: Links

    def connect(self, driver: Driver, links: Links) -> None:
        """Set the parts that need this one."""
        self.driver, self.links = driver, links
        self._load()
        driver.muted = self._may_have_a_past()
        self._hear_fresh(frozenset())
        self._set_links()

    # -- a disk that may have had a past

    @property
    def fresh(self) -> bool:
        """Whether this disk holds no entry of the log."""
        return self.driver.node.last_index == 0

    def _may_have_a_past(self) -> bool:
        founder = self.roster.own.peer in self.roster.founding.by_id
        return founder and self.fresh and self.driver.node.term == 0

    def on_hello(self, caller: PeerNamed, *, fresh: bool) -> None:
        """Another peer was admitted."""
        self._said[caller.peer] = caller
        if self.roster.heard(caller):
            self._set_links()
            self._on_change()
        if fresh:
            self._hear_fresh({caller.peer})
        else:
            self._fresh.discard(caller.peer)

    def _hear_fresh(self, peers: frozenset[int] | set[int]) -> None:
        founders = self.roster.founding.by_id
        self._fresh |= peers & founders.keys()
        if self.driver.muted and 2 * len(self._fresh | {self.roster.own.peer}) > len(founders):
            self._unmute("a majority of the founders begins with empty disks")

    def on_admitted(self, admitted: Sequence[tuple[int, int]]) -> None:
        """Another peer tells the disks in its peer table."""
        if self.driver.muted and (self.roster.own.peer, self.roster.own.disk) in admitted:
            self._unmute("the cell knows this disk")

    def _unmute(self, why: str) -> None:
        self.driver.muted = False
        logger.info("this empty disk takes part: %s", why, extra={"action": "disk_admitted"})

    # -- the peer table

    def on_committed(self, entries: Sequence[Entry]) -> None:
        """These have committed, in log order."""
        self._committed = entries[-1].index
        normal = [entry.data for entry in entries if entry.kind is EntryKind.NORMAL]
        founded = list(filter(None, map(encoding.cell_founded, normal)))
        for identity in founded:
            self.roster.found(identity)
        named = list(filter(None, map(encoding.peer_named, normal)))
        for record in named:
            self.roster.learn(record)
        if named or founded:
            self._set_links()
            self._on_change()

    def on_snapshot_installed(self, index: int) -> None:
        self._committed = index
        self._load()
        self._set_links()
        self._on_change()

    def _load(self) -> None:
        with self._store.view() as view:
            self.roster.restart(view.tables)

    def _set_links(self) -> None:
        self._membership = self.driver.node.membership
        self.links.update(self.roster.addresses(self._membership.peers))

    # -- changes

    def tick(self) -> None:
        """Called every tick of the cell."""
        node = self.driver.node
        if node.membership is not self._membership:
            self._set_links()
            self._on_change()
        self._note_term()
        if self._term and self._committed >= self._asked:
            self._do(self._changes.step(self._seen()))

    def _note_term(self) -> None:
        """In a new term the changes of earlier leaders must commit first, as if they were ours."""
        node = self.driver.node
        term = node.term if node.role is ServerState.LEADER else 0
        if term != self._term:
            self._term, self._changes = term, Changes(self._round_s)
            self._asked = node.last_index

    def join(self, disk: PeerNamed, replacing: bool | None) -> Declined | None:
        """The request of a disk to join. None: accepted."""
        return self._request(lambda seen: self._changes.join(disk, replacing, seen))

    def may_join(self, disk: PeerNamed, replacing: bool) -> Declined | None:
        """Whether such a disk would be let in now; nothing is changed."""
        answer = self._changes.join(disk, replacing, self._seen())
        return answer if isinstance(answer, Declined) else None

    def promote(self, name: str) -> Declined | None:
        """The request to let a learner vote. None: accepted."""
        return self._request(lambda seen: self._changes.promote(name, seen))

    def remove(self, name: str) -> Declined | None:
        """The request to remove a peer. None: accepted."""
        return self._request(lambda seen: self._changes.remove(name, seen))

    def _request(self, ask: Callable[[Seen], NamePeer | Declined | None]) -> Declined | None:
        self._note_term()
        if self._committed < self._asked:
            return Declined("another change has not committed yet", passing=True)
        answer = ask(self._seen())
        if isinstance(answer, Declined):
            return answer
        if answer is not None and not self._do(answer):
            return Declined("the leader takes no changes at this moment", passing=True)
        return None

    def _do(self, effect: NamePeer | ChangeMembership | HandOver | None) -> bool:
        """Whether it was done; otherwise it is decided anew at the next tick."""
        try:
            match effect:
                case None:
                    pass
                case NamePeer(record):
                    self._asked = self.driver.propose(encoding.encode(record))
                    fate = record.gone or "belongs to the cell"
                    self._log("the peer table says: %s", f"{self._title(record.peer)} {fate}")
                case ChangeMembership(kind, peer):
                    self._asked = self.driver.propose_membership(MembershipChange(kind, peer))
                    self._log("the membership changes: %s", f"{kind.name} {self._title(peer)}")
                case HandOver():
                    self._hand_over()
                case _:
                    raise TypeError(effect)
        except CallerError as error:
            logger.debug("not now: %s", error)
            return False
        return True

    def _log(self, sentence: str, what: object) -> None:
        logger.info(sentence, what, extra={"action": "membership"})

    def _title(self, peer: int) -> str:
        return f"disk {peer} of peer {self.roster.name(peer) or '(new)'}"

    def _seen(self) -> Seen:
        node, now = self.driver.node, time.monotonic()
        members = node.membership
        own = self.roster.own.peer
        disks = self.roster.disks()
        self._said = {p: s for p, s in self._said.items() if p == own or self.links.calls(p)}
        return Seen(
            now=now,
            date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            own=own,
            voters=members.voters,
            learners=members.learners,
            last_index=node.last_index,
            match={view.peer: view.match for view in node.progress()},
            live=[own, *(disk.peer for disk in disks if self._is_live(disk.peer, now))],
            disks=disks,
            recorded=set(self.roster.recorded),
            said=self._said,
        )

    def _is_live(self, peer: int, now: float) -> bool:
        return self.links.connected(peer) and now - self._heard_at(peer) < FRESH_S

    # -- what operators see

    @property
    def waiting(self) -> str:
        """What the leader's change in progress waits for."""
        return self._changes.waiting if self._term else ""

    def leaving(self) -> bool:
        """Whether this peer's own disk is marked as gone."""
        disk = self.roster.disk(self.roster.own.peer)
        return disk is not None and bool(disk.gone)

    def member(self, peer: int, **heard: Any) -> Member:
        """A member, with what its peer has said (``heard``)."""
        node = self.driver.node
        disk = self.roster.disk(peer)
        match = next((view.match for view in node.progress() if view.peer == peer), None)
        role = "voter" if peer in node.membership.voters else "learner"
        return Member(
            id=peer,
            name=disk.name if disk is not None else str(peer),
            role="witness" if disk is not None and disk.witness and role == "voter" else role,
            leaving=disk is not None and bool(disk.gone),
            match=match,
            lag=node.last_index - match if match is not None else None,
            **heard,
        )
