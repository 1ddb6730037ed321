"""Membership changes of a running cell: disks join as learners, are promoted, and go. Pure.

Guarantee: no two voters of one peer. A disk votes only after it has caught up, after every earlier
disk of its peer was removed, and only where the live peers can still commit. A full peer goes only
if another live one keeps the ledger: witnesses can commit, and have none.

Each step follows from the peer table and the membership, so a new leader goes on where the last one
stopped. The order, with a commit between any two steps:

    the peer table names the new disk → ADD_LEARNER → it catches up → the peer table calls the old
    disk gone → REMOVE the old one → ADD_VOTER the new one

A disk whose record says ``learner`` stays one, until an operator promotes it: then the record says
so no more.

To remove a peer the peer table calls its disk gone, and REMOVE follows; a leader that is to go
hands over first, and its successor goes on.

Caught up (thesis 4.2.1): a round replicates what the log held when the round began. A learner that
ends a round within ``round_s`` (an election timeout) would delay commits by no more than that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from ha_scheduler.cell.peers import PEERS_MAX
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.protocol.control import Declined
from ha_scheduler.raft.errors import InvariantViolationError
from ha_scheduler.raft.membership import ChangeKind


@dataclass(frozen=True, slots=True)
class Seen:
    """The leader's knowledge at one moment.

    ``disks``: all known disks in log order, the founders first; ``recorded``: those with a record.
    ``said``: how connected peers describe themselves. ``live``: those heard of a moment ago, this
    leader included. ``now`` in seconds; ``date`` the same moment for people.
    """

    now: float
    date: str
    own: int
    voters: Collection[int]
    learners: Collection[int]
    last_index: int
    match: Mapping[int, int]
    live: Collection[int]
    disks: tuple[PeerNamed, ...]
    recorded: Collection[int]
    said: Mapping[int, PeerNamed]

    @property
    def members(self) -> list[int]:
        return [*self.voters, *self.learners]

    def current(self, name: str) -> PeerNamed | None:
        """The newest disk of ``name`` that belongs to the cell."""
        found = [disk for disk in self.disks if disk.name == name and not disk.gone]
        return found[-1] if found else None

    def disk(self, peer: int) -> PeerNamed | None:
        """The disk with this id, if known."""
        return next((disk for disk in self.disks if disk.peer == peer), None)

    def can_commit(self, voters: Collection[int]) -> bool:
        """Whether a majority of ``voters`` is live."""
        return 2 * len(set(voters) & set(self.live)) > len(voters)

    def keeps_ledger_without(self, left: PeerNamed, among: Collection[int]) -> bool:
        """Whether a live one of ``among`` keeps a ledger, or ``left`` kept none anyway."""
        others = set(among) & set(self.live) - {left.peer}
        return left.witness or any(
            disk.peer in others and not disk.witness and not disk.gone for disk in self.disks
        )


@dataclass(frozen=True, slots=True)
class NamePeer:
    """Propose this record."""

    record: PeerNamed


@dataclass(frozen=True, slots=True)
class ChangeMembership:
    """Propose this change of the membership."""

    kind: ChangeKind
    peer: int


@dataclass(frozen=True, slots=True)
class HandOver:
    """Transfer leadership: this peer is to be removed."""


Effect = NamePeer | ChangeMembership | HandOver


class Changes:
    """One leader's decisions. Ask only when all its earlier changes have committed."""

    def __init__(self, round_s: float) -> None:
        self.waiting = ""  # the obstacle of the change in progress; empty: none is in progress
        self._round_s = round_s
        self._rounds: dict[int, tuple[int, float]] = {}  # learner → index to reach, since when

    # -- the next step

    def step(self, seen: Seen) -> Effect | None:
        """The next thing to do, or None; ``waiting`` then says what more is to come."""
        self.waiting = ""
        for effect in (
            *self._introductions(seen),
            *self._departures(seen, replaced=True),
            *self._arrivals(seen),
            *self._departures(seen, replaced=False),
        ):
            if not isinstance(effect, str):
                return effect
            self.waiting = self.waiting or effect
        return None

    def _introductions(self, seen: Seen) -> Iterator[Effect | str]:
        """Each member that takes part is recorded, so that its id can never begin anew."""
        for peer in sorted(set(seen.said) & set(seen.members)):
            said, known = seen.said[peer], seen.disk(peer)
            if peer not in seen.recorded or (
                known is not None
                and known == seen.current(known.name)
                and known.disk == said.disk
                and _address(known) != _address(said)
            ):
                # Whether it is to stay a learner is not for itself to say.
                yield NamePeer(replace(said, learner=known is not None and known.learner))

    def _departures(self, seen: Seen, *, replaced: bool) -> Iterator[Effect | str]:
        for peer in sorted(seen.members):
            disk = seen.disk(peer)
            if disk is None or not disk.gone or (seen.current(disk.name) is not None) != replaced:
                continue
            left = set(seen.voters) - {peer}
            if peer in seen.voters and not seen.can_commit(left):
                yield f"without peer {disk.name} no majority of voters would be live"
            elif peer in seen.voters and not seen.keeps_ledger_without(disk, seen.members):
                yield _last_ledger(disk)
            elif peer == seen.own:
                yield HandOver()
            else:
                yield ChangeMembership(ChangeKind.REMOVE, peer)

    def _arrivals(self, seen: Seen) -> Iterator[Effect | str]:
        self._rounds = {p: r for p, r in self._rounds.items() if p in seen.learners}
        for name in sorted({disk.name for disk in seen.disks if not disk.gone}):
            newest = seen.current(name)
            if newest is None or newest.peer not in seen.recorded:
                continue
            older = [d for d in seen.disks if d.name == name and not d.gone and d != newest]
            if newest.peer in seen.voters:
                yield from (self._retire(disk, seen) for disk in older)
            elif newest.peer in seen.learners:
                if not newest.learner:
                    yield from self._promotion(newest, older, seen)
            else:
                yield ChangeMembership(ChangeKind.ADD_LEARNER, newest.peer)

    def _promotion(
        self, newest: PeerNamed, older: list[PeerNamed], seen: Seen
    ) -> Iterator[Effect | str]:
        yield from (self._retire(d, seen) for d in older if d.peer not in seen.voters)
        if not self._caught_up(newest.peer, seen):
            behind = seen.last_index - seen.match.get(newest.peer, 0)
            yield f"peer {newest.name} catches up; it is {behind} entries behind"
        elif any(disk.peer in seen.live for disk in older):
            yield f"the disk that peer {newest.name} is to replace is in use; stop that process"
        elif older:
            yield self._retire(older[0], seen)
        elif any(d.name == newest.name and d.peer in seen.voters for d in seen.disks):
            yield f"the former disk of peer {newest.name} is still a voter"
        elif not seen.can_commit([*seen.voters, newest.peer]):
            yield f"with peer {newest.name} no majority of voters would be live"
        else:
            yield ChangeMembership(ChangeKind.ADD_VOTER, newest.peer)

    def _retire(self, disk: PeerNamed, seen: Seen) -> Effect:
        return NamePeer(replace(disk, gone=f"was replaced on {seen.date}"))

    def _caught_up(self, peer: int, seen: Seen) -> bool:
        if peer not in seen.live:
            self._rounds.pop(peer, None)
            return False
        target, began = self._rounds.setdefault(peer, (seen.last_index, seen.now))
        if seen.match.get(peer, 0) < target:
            return False
        self._rounds[peer] = (seen.last_index, seen.now)
        return seen.now - began <= self._round_s

    # -- requests of operators

    def join(
        self, disk: PeerNamed, replacing: bool | None, seen: Seen
    ) -> NamePeer | Declined | None:
        """The request of ``disk`` to join. Idempotent; None: accepted before.

        ``replacing``: as the new disk of an existing peer; None: unsaid, as by one let in before.
        """
        known, former = seen.disk(disk.peer), seen.current(disk.name)
        if known is not None and known.name != disk.name:
            return Declined(f"disk {disk.peer} is that of peer {known.name}, not of {disk.name}")
        if known is not None and known.gone:
            return Declined(gone_reason(known))
        if known is not None and known.peer in seen.recorded:
            return None
        if replacing is None:
            return Declined(f"this disk of peer {disk.name} is unknown; say --join or --replace")
        reason = self._misfit(disk, former, replacing, seen)
        if reason:
            return Declined(reason)
        if disk.witness and former and not seen.keeps_ledger_without(former, seen.voters):
            return Declined(_last_ledger(former))
        reason = _too_many_witnesses(disk, seen) if disk.witness else ""
        if reason:
            return Declined(reason)
        if former is not None and former.peer in seen.live:
            return Declined(
                f"the disk of peer {disk.name} that it is to replace is in use; stop that process "
                f"first",
                passing=True,
            )
        # Another change may wait for the replacement of a lost disk; a new peer can wait.
        for name in () if replacing else self._unfinished(seen):
            return Declined(f"peer {name} is being added or removed; one at a time", passing=True)
        if not seen.can_commit(seen.voters):
            return Declined("no majority of voters is live", passing=True)
        return NamePeer(disk)

    def _misfit(
        self, disk: PeerNamed, former: PeerNamed | None, replacing: bool, seen: Seen
    ) -> str:
        here = {d.name: d for d in seen.disks if not d.gone}
        if replacing and former is None:
            return f"there is no peer {disk.name} in the cell to replace; use --join to add it"
        if not replacing and former is not None:
            return f"there is a peer {disk.name} in the cell; use --replace for its new disk"
        if disk.name not in here and len(here) >= PEERS_MAX:
            return f"the cell has {PEERS_MAX} peers, which is the limit; remove one first"
        ports = {disk.peer_port, disk.dask_port}
        for other in here.values():
            same = other.host == disk.host and ports & {other.peer_port, other.dask_port}
            if same and other.name != disk.name:
                return f"peer {other.name} has port {min(same)} of {disk.host}; choose another"
        return ""

    def promote(self, name: str, seen: Seen) -> NamePeer | Declined | None:
        """The request to let the learner ``name`` vote. Idempotent; None: accepted before."""
        disk = seen.current(name)
        if disk is None:
            return Declined(f"there is no peer {name} in the cell")
        if disk.peer in seen.voters:
            return Declined(f"peer {name} votes already")
        if not disk.learner:
            return None
        for other in self._unfinished(seen) - {name}:
            return Declined(f"peer {other} is being added or removed; one at a time", passing=True)
        if not seen.can_commit(more := {*seen.voters, disk.peer}):
            live = len(more & set(seen.live))
            return Declined(
                f"with peer {name}, {live} of {len(more)} voters would be live, which is no "
                f"majority; bring the others back first"
            )
        return NamePeer(replace(disk, learner=False))

    def remove(self, name: str, seen: Seen) -> NamePeer | Declined | None:
        """The request to remove the peer ``name``. Idempotent; None: accepted before."""
        disk = seen.current(name)
        if disk is None:
            leaving = any(d.name == name and d.peer in seen.members for d in seen.disks)
            return None if leaving else Declined(f"there is no peer {name} in the cell")
        for other in self._unfinished(seen) - {name}:
            return Declined(f"peer {other} is being added or removed; one at a time", passing=True)
        of_name = {d.peer for d in seen.disks if d.name == name}
        left = set(seen.voters) - of_name
        if not left:
            return Declined(f"peer {name} is the last voter; stop it instead")
        if not seen.can_commit(left):
            live = len(left & set(seen.live))
            return Declined(
                f"without peer {name}, {live} of {len(left)} voters would be live, which is no "
                f"majority; bring the others back first"
            )
        if disk.peer in seen.voters and not seen.keeps_ledger_without(disk, seen.voters):
            return Declined(_last_ledger(disk))
        return NamePeer(replace(disk, gone=f"was removed on {seen.date}"))

    def _unfinished(self, seen: Seen) -> set[str]:
        """Peers with a disk on its way in or out."""
        on_the_way = set()
        for disk in seen.disks:
            if disk.gone:
                moving = disk.peer in seen.members
            else:
                is_to_stay = disk.learner and disk.peer in seen.learners
                moving = disk.peer in seen.recorded and disk.peer not in seen.voters
                moving = moving and not is_to_stay
            if moving:
                on_the_way.add(disk.name)
        return on_the_way


def _address(disk: PeerNamed) -> tuple[str, int, int]:
    return disk.host, disk.peer_port, disk.dask_port


def _too_many_witnesses(disk: PeerNamed, seen: Seen) -> str:
    peers = {d.name: d for d in seen.disks if not d.gone} | {disk.name: disk}
    witnesses = sum(peer.witness for peer in peers.values())
    if 2 * witnesses < len(peers):
        return ""
    return (
        f"{witnesses} of {len(peers)} peers would be witnesses, which together could commit what "
        f"no ledger holds; add full peers first"
    )


def _last_ledger(disk: PeerNamed) -> str:
    return (
        f"no other peer that keeps the ledger is up than {disk.name}; bring another one back, or "
        f"add one, first"
    )


def gone_reason(disk: PeerNamed) -> str:
    """The refusal for the operator of a disk that is gone."""
    way = "--replace" if "replaced" in disk.gone else "--join"
    return (
        f"this disk of peer {disk.name} {disk.gone} and may not act again; delete the data and "
        f"start with {way} if the peer shall take part"
    )


def check_invariants(seen: Seen) -> None:
    """No two voters of one peer. Raises ``InvariantViolationError``."""
    names = [disk.name for disk in seen.disks if disk.peer in seen.voters]
    if len(names) != len(set(names)):
        raise InvariantViolationError(f"two voters of one peer: {sorted(names)}")
    if set(seen.voters) & set(seen.learners):
        raise InvariantViolationError(f"a voter is a learner: {seen.voters}, {seen.learners}")
