"""The members of the cell and their addresses: the founding list, overridden by the peer table.

Guarantee: every answer follows from committed records, so peers that have applied as much answer
alike. A disk that is gone, or another disk under a founder's id, is refused with a remedy for its
operator. An unknown id is let in with the certificate of the peer it names: it may be a leader of
whose election this peer has not heard.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from msgspec.structs import asdict

from ha_scheduler.cell.peers import Cell
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.ledger.tables import TABLES
from ha_scheduler.peer import witness
from ha_scheduler.peer.membership import gone_reason
from ha_scheduler.protocol.peer import Disk, PeerAddress

UNKNOWN_DISK = 0  # of a founder that has no record yet


class Roster:
    """The peer table in memory."""

    def __init__(self, founding: Cell, listed: Cell, own: PeerNamed) -> None:
        """``listed``: what the operator wrote after ``--peers``; it may know newer Dask ports."""
        self.founding = founding
        self.own = own
        self._founders: dict[int, PeerNamed] = {}
        for peer in founding.peers:
            address = listed.peer(peer.name) if peer.name in listed.names else peer
            if (address.host, address.peer_port) != (peer.host, peer.peer_port):
                address = peer
            identifier = founding.peer_id(peer.name)
            self._founders[identifier] = _named(identifier, UNKNOWN_DISK, address)
        self._rows: dict[int, PeerNamed] = {}  # the newest last

    def learn(self, record: PeerNamed) -> None:
        """The record has committed."""
        self._rows.pop(record.peer, None)
        self._rows[record.peer] = record

    def restart(self, rows: Iterable[PeerNamed]) -> None:
        """A snapshot replaced the ledger."""
        self._rows = {record.peer: record for record in rows}

    # -- questions

    @property
    def recorded(self) -> Collection[int]:
        """The ids in the peer table."""
        return self._rows.keys()

    def disks(self) -> tuple[PeerNamed, ...]:
        """Every disk there is or was: founders without a record, then the peer table."""
        unrecorded = [f for peer, f in self._founders.items() if peer not in self._rows]
        return (*unrecorded, *self._rows.values())

    def disk(self, peer: int) -> PeerNamed | None:
        """What is known of an id."""
        return self._rows.get(peer) or self._founders.get(peer)

    def name(self, peer: int) -> str | None:
        disk = self.disk(peer)
        return disk.name if disk is not None else None

    def tables_of(self, peer: int) -> Sequence[str]:
        """The tables of a snapshot for that disk."""
        disk = self.disk(peer)
        return witness.TABLES if disk is not None and disk.witness else TABLES

    def addresses(self, members: Iterable[int]) -> dict[int, PeerAddress]:
        """The addresses of the members that are known."""
        found = {peer: self.disk(peer) for peer in members}
        return {peer: address_of(disk) for peer, disk in found.items() if disk is not None}

    def current(self) -> tuple[PeerAddress, ...]:
        """The peers of today, by name, this one included; the newest disk of each."""
        newest = {d.name: d for d in self.disks() if not d.gone}
        newest.setdefault(self.own.name, self.own)
        return tuple(address_of(newest[name]) for name in sorted(newest))

    def is_own_cell(self, identity: str) -> bool:
        """Whether ``identity`` is the cell's: the founding list, or the peers of today."""
        return identity in (self.founding.identity, Cell(self.current()).identity)

    def admitted(self) -> tuple[tuple[int, int], ...]:
        """The ids that belong to the cell, each with its disk."""
        return tuple((row.peer, row.disk) for row in self._rows.values() if not row.gone)

    def gone(self, peer: int, disk: int, members: Collection[int]) -> str:
        """Why ``disk`` may not act under the id ``peer``; empty if it may, as far as we know."""
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


def disk_of(own: PeerNamed) -> Disk:
    """A peer's description of itself in a hello or a join request."""
    return Disk(own.peer, own.disk, own.name, own.host, own.peer_port, own.dask_port, own.witness)


def named(disk: Disk) -> PeerNamed:
    """The inverse of ``disk_of``: the record of a peer that belongs to the cell."""
    return PeerNamed(**asdict(disk), gone="")


def _named(peer: int, disk: int, address: PeerAddress) -> PeerNamed:
    return PeerNamed(
        peer, disk, address.name, address.host, address.peer_port, address.dask_port, False, ""
    )
