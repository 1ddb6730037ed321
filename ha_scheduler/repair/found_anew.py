"""Found a new cell from the ledger of one peer that does not run.

Guarantee: the new cell has all that this peer's log and ledger hold, as if a majority had elected
it: entries that it does not know to have committed are applied. It is another cell, with an id that
names its predecessor, and this peer is its only member; the others join it with empty disks. So no
peer of the former cell takes part in it, or it in theirs.

Order: the file of ``peer/members/founding.py`` first, then all else in one transaction. In between,
the directory is that of neither cell, and no daemon takes it; to found anew once more ends that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ha_scheduler.cell.peers import Cell
from ha_scheduler.errors import OperatorError
from ha_scheduler.ledger import cell_identity
from ha_scheduler.ledger.records import CellFounded
from ha_scheduler.ledger.tables import MAINTENANCE, PEERS
from ha_scheduler.ledger.unfit import UnknownRecordError
from ha_scheduler.peer.members import founding
from ha_scheduler.raft.messages import Membership, SnapshotMeta
from ha_scheduler.repair.offline import Offline, State
from ha_scheduler.storage.applying import fold_entries
from ha_scheduler.storage.environment import Identity
from ha_scheduler.storage.log_table import LogTable
from ha_scheduler.storage.schema import (
    APPLIED,
    DROPPED,
    FORMAT_VERSION,
    HARD_STATE,
    IDENTITY,
    put_fields,
)


@dataclass(frozen=True, slots=True)
class Founding:
    """What is to be founded, and what that means."""

    cell: Cell
    name: str
    loses: str


def look_at(offline: Offline, txn: Any, cell: Cell) -> Founding:
    """What founding ``cell`` would do. Raises ``OperatorError``."""
    name = offline.identity.peer
    if cell.names != (name,):
        raise OperatorError(
            f"A cell begins anew with this peer alone: --peers has to name {name} and nobody else; "
            f"the others join it then, with empty disks and --join."
        )
    known = founding.load(offline.path)
    if known is not None and known.witness:
        raise OperatorError(
            f"{offline.path} is that of a witness, which keeps no ledger; use that of another peer."
        )
    state = offline.state(txn)
    return Founding(
        cell,
        name,
        f"A new cell is founded from the ledger of peer {name} of cell {offline.identity.cell}, "
        f"as of entry {state.last_index} of term {state.hard_state.term}; "
        f"{state.last_index - state.applied.index} of them were not applied, and are taken for "
        f"committed. What only other peers have is lost. Their data stays that of the former cell: "
        f"they can take part in this one with empty disks only. Never start the former cell again: "
        f"its clients and workers are let into the new one.",
    )


def found(offline: Offline, what: Founding) -> CellFounded:
    """Found it. Raises ``OperatorError``."""
    cell, name = what.cell, what.name
    peer_id = cell.peer_id(name)
    founding.create(offline.path, cell, peer_id, witness=False)
    with offline.dbs.env.begin(write=True) as txn:
        state = offline.state(txn)
        meta = _apply_rest(offline, txn, state, peer_id)
        return begin(offline, txn, Identity(cell.identity, name, peer_id), meta)


def begin(offline: Offline, txn: Any, own: Identity, meta: SnapshotMeta) -> CellFounded:
    """Make the ledger, as of ``meta``, that of a new cell in which ``own`` is alone."""
    state, tables = offline.state(txn), offline.tables(txn, writable=True)
    successor = cell_identity.found_anew(tables, meta.index, own.peer)
    for table in (PEERS, MAINTENANCE):
        tables.delete_prefix(table, b"")
    _forget_log(offline, txn, state, meta)
    peer = offline.dbs.peer
    put_fields(txn, peer, IDENTITY, (FORMAT_VERSION, own.cell, own.peer, own.peer_id))
    # A term that was spent in vain is no matter of the new cell.
    put_fields(txn, peer, HARD_STATE, (meta.term, 0, meta.index))
    members = meta.membership
    put_fields(txn, peer, APPLIED, (meta.index, meta.term, members.voters, members.learners))
    put_fields(txn, peer, DROPPED, ())
    offline.write_down(
        txn,
        f"founded cell {successor.cell} from the ledger of cell "
        f"{successor.predecessor or offline.identity.cell}, as of entry {meta.index}",
    )
    return successor


def _apply_rest(offline: Offline, txn: Any, state: State, peer_id: int) -> SnapshotMeta:
    """Apply what the log has beyond the ledger. Returns the state of the new cell."""
    tables, term = offline.tables(txn, writable=True), state.applied.term
    for index in range(state.applied.index + 1, state.last_index + 1):
        entry = offline.entry(txn, index)
        term = entry.term
        try:
            fold_entries(tables, (entry,), state.dropped)
        except UnknownRecordError as error:
            raise OperatorError(
                f"Entry {index} of {offline.path} cannot be applied ({error}); upgrade this "
                f"release, or drop the entry with `repair drop {index}` first."
            ) from error
    return SnapshotMeta(state.last_index, term, Membership((peer_id,)))


def _forget_log(offline: Offline, txn: Any, state: State, meta: SnapshotMeta) -> None:
    """The ledger is the snapshot with which the log of the new cell begins."""
    LogTable(offline.dbs.log_dbs, state.compacted, state.last_index, 0).restart(txn, meta)
