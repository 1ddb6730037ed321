"""The roster: the identity, members and addresses of the cell, as its ledger has them.

Guarantee: every answer but addresses follows from the founding list and the committed records over
it, so peers with the same applied index agree. A disk of another cell, one that is gone, another
disk or another peer under a known id is refused with a remedy for its operator. An unknown id is
admitted with the certificate of its peer: it may be a leader that this peer has not heard of yet.

A peer is its name, which its certificate proves, and the number of its disk; its address may change
while it is down. Where it is says first who has called us as that disk, then the operator's list,
then the ledger, which learns it from the leader. All that are known are dialled in turn, so an old
list costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from msgspec.structs import asdict

from ha_scheduler.cell.address import join_address
from ha_scheduler.cell.peers import Cell
from ha_scheduler.ledger import cell_identity, peer_table
from ha_scheduler.ledger.records import CellFounded, PeerNamed
from ha_scheduler.ledger.tables import DUMPED_TABLES, Tables
from ha_scheduler.peer.members import witness
from ha_scheduler.peer.members.membership import gone_reason
from ha_scheduler.protocol.peer import Disk, PeerAddress

UNKNOWN_DISK = 0  # of a founder without a record


class Roster:
    """The peer table in memory."""

    def __init__(self, founding: Cell, listed: Cell, own: PeerNamed) -> None:
        """``listed``: the cell of ``--peers``; it may know newer addresses."""
        self.founding = founding
        self.own = own
        self._listed = listed
        self._heard: dict[int, PeerAddress] = {}  # of disks that have called since
        self._founders: dict[int, PeerNamed] = {}
        for peer in founding.peers:
            identifier = founding.peer_id(peer.name)
            self._founders[identifier] = described(identifier, UNKNOWN_DISK, peer)
        self._rows: dict[int, PeerNamed] = {}  # the newest last
        self.identity: CellFounded | None = None  # None: no leader has drawn one yet

    def found(self, record: CellFounded) -> None:
        """Apply a committed record: the first counts."""
        self.identity = self.identity or record

    def learn(self, record: PeerNamed) -> None:
        """Apply a committed record."""
        former = self.disk(record.peer)
        if former is None or address_of(former) != address_of(record):
            self._heard.pop(record.peer, None)
        self._rows.pop(record.peer, None)
        self._rows[record.peer] = record

    def heard(self, caller: PeerNamed) -> bool:
        """A disk has called, and proven its certificate. Returns whether its address is news."""
        news = self._heard.get(caller.peer) != address_of(caller)
        self._heard[caller.peer] = address_of(caller)
        return news

    def restart(self, tables: Tables) -> None:
        """A snapshot replaced the ledger."""
        self._rows = {record.peer: record for record in peer_table.peers(tables)}
        self.identity = cell_identity.load(tables)

    # -- questions

    @property
    def recorded(self) -> Collection[int]:
        """The ids in the peer table."""
        return self._rows.keys()

    def disks(self) -> tuple[PeerNamed, ...]:
        """Every disk, present or gone: founders without a record, then the peer table."""
        unrecorded = [f for peer, f in self._founders.items() if peer not in self._rows]
        return (*unrecorded, *self._rows.values())

    def disk(self, peer: int) -> PeerNamed | None:
        """The disk with this id, if known."""
        return self._rows.get(peer) or self._founders.get(peer)

    @property
    def cell_id(self) -> str:
        """The random id of this cell; empty until it is known."""
        return self.identity.cell if self.identity is not None else ""

    @property
    def predecessor(self) -> str:
        """The id of the cell from whose ledger this one was founded, if any."""
        return self.identity.predecessor if self.identity is not None else ""

    def stranger(self, caller: PeerNamed, cell_id: str) -> str:
        """Why the caller is none of this cell, or not who it says; empty: no reason is known."""
        if cell_id and self.cell_id and cell_id != self.cell_id:
            return (
                f"peer {self.own.name} is of the cell {self.cell_id} and peer {caller.name} of the "
                f"cell {cell_id}: their data was founded apart, on the same hosts. Delete the data "
                f"of the one that is wrong, and start it with --replace"
            )
        known = self.disk(caller.peer)
        if known is not None and known.name != caller.name:
            return f"disk {caller.peer} is that of peer {known.name}, not of peer {caller.name}"
        return ""

    def name(self, peer: int) -> str | None:
        disk = self.disk(peer)
        return disk.name if disk is not None else None

    def tables_of(self, peer: int) -> Sequence[str]:
        """The tables of a snapshot for that disk."""
        disk = self.disk(peer)
        return witness.TABLES if disk is not None and disk.witness else DUMPED_TABLES

    def addresses(self, members: Iterable[int]) -> dict[int, tuple[PeerAddress, ...]]:
        """Where each of the known members may be, the likeliest first."""
        found = {peer: self.disk(peer) for peer in members}
        return {peer: self._places(disk) for peer, disk in found.items() if disk is not None}

    def _places(self, disk: PeerNamed) -> tuple[PeerAddress, ...]:
        if disk.peer == self.own.peer:
            return (address_of(self.own),)
        known = [self._heard.get(disk.peer), address_of(disk)]
        if disk == self._newest().get(disk.name) and disk.name in self._listed.names:
            listed = self._listed.peer(disk.name)
            known.insert(2 if self._is_founding(listed) else 1, listed)
        return tuple(dict.fromkeys(place for place in known if place is not None))

    def _is_founding(self, listed: PeerAddress) -> bool:
        """Whether the list says what it said at first: it may be older than the ledger."""
        name, founding = listed.name, self.founding
        return name in founding.names and founding.peer(name) == listed

    def _newest(self) -> dict[str, PeerNamed]:
        newest = {d.name: d for d in self.disks() if not d.gone}
        newest.setdefault(self.own.name, self.own)
        return newest

    def current(self) -> tuple[PeerAddress, ...]:
        """Today's peers by name, this one included, each with its newest disk."""
        newest = self._newest()
        return tuple(self._places(newest[name])[0] for name in sorted(newest))

    def is_own_cell(self, identity: str) -> bool:
        """Whether ``identity`` is the founding list or today's peers."""
        return identity in (self.founding.identity, Cell(self.current()).identity)

    def is_operators(self, listed: str) -> bool:
        """Whether an operator's list means our cell: also one that knows us where we are now, and
        has another peer where it was before.
        """
        if self.is_own_cell(listed):
            return True
        own, items = self.own, listed.split(",")
        here = f"{own.name}={join_address(own.host, own.peer_port)}"
        return here in items and tuple(each.partition("=")[0] for each in items) in self.names()

    def names(self) -> tuple[tuple[str, ...], ...]:
        """The names of today's peers, and of the founders."""
        return tuple(sorted(self._newest())), self.founding.names

    def moved(self) -> dict[str, tuple[str, str]]:
        """Peers that the operator's list has elsewhere than the ledger: where from, and to."""
        found = {}
        for name, disk in self._newest().items():
            listed = self._listed.peer(name) if name in self._listed.names else None
            if listed is not None and not self._is_founding(listed):
                was, now = (join_address(p.host, p.peer_port) for p in (address_of(disk), listed))
                if was != now:
                    found[name] = was, now
        return found

    def admitted(self) -> tuple[tuple[int, int], ...]:
        """The ids in the cell, each with its disk."""
        return tuple((row.peer, row.disk) for row in self._rows.values() if not row.gone)

    def gone(self, peer: int, disk: int, members: Collection[int]) -> str:
        """Why ``disk`` may not act under the id ``peer``; empty: no reason is known."""
        row = self._rows.get(peer)
        if row is None:
            return ""
        if row.gone and peer not in members:
            return gone_reason(row)
        if row.disk != disk:
            return (
                f"another disk took part in this cell as peer {row.name}, and this one may not "
                f"vote in its place; delete the data and start with --replace"
            )
        return ""


def address_of(disk: PeerNamed) -> PeerAddress:
    """The address of the peer with that disk."""
    return PeerAddress(disk.name, disk.host, disk.peer_port, disk.dask_port)


def described(peer: int, disk: int, address: PeerAddress, *, witness: bool = False) -> PeerNamed:
    """The row of a disk at ``address``."""
    return PeerNamed(peer, disk, **asdict(address), witness=witness, gone="")


def disk_of(own: PeerNamed) -> Disk:
    """A disk's description in ``PeerHello`` and ``JoinRequest``."""
    return Disk(own.peer, own.disk, own.name, own.host, own.peer_port, own.dask_port, own.witness)


def named(disk: Disk) -> PeerNamed:
    """The inverse of ``disk_of``: its row in the peer table."""
    return PeerNamed(**asdict(disk), gone="")
