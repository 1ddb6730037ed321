"""The peer table: who is behind each Raft id, and which ids may never act again.

Guarantee: the newest record of an id is its row in every copy of the ledger. A disk that is gone
stays known as gone until ``GONE_MAX`` others have gone after it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ha_scheduler.ledger.encoding import decode
from ha_scheduler.ledger.layout import pack, peer_key, unpack
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.ledger.tables import PEERS, Tables

GONE_MAX = 256  # disks remembered as gone; one forgotten is refused as unknown instead


def put(tables: Tables, index: int, record: PeerNamed, data: bytes) -> None:
    """Write the row of ``record``, logged at ``index`` as ``data``."""
    tables.put(PEERS, peer_key(record.peer), pack((index, data)))
    gone = [row for _, row in scan(tables) if _named(row).gone]
    for row in gone[: max(0, len(gone) - GONE_MAX)]:
        tables.delete(PEERS, peer_key(_named(row).peer))


def scan(tables: Tables) -> Iterator[tuple[int, bytes]]:
    """Index and record of every id, in the order of the log."""
    rows = [unpack(row) for _, row in tables.scan(PEERS)]
    yield from sorted(rows)


def peers(tables: Tables) -> Iterator[PeerNamed]:
    """The newest record of every id, in the order of the log."""
    for _, row in scan(tables):
        yield _named(row)


def _named(row: bytes) -> PeerNamed:
    record = decode(row)
    assert isinstance(record, PeerNamed)
    return record
