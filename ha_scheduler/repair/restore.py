"""Found a new cell from a saved ledger.

Guarantee: as ``found_anew.py``, but the state is that of the file, and the directory is a new one.
The file is verified as a whole before anything is written.

Order: the file of ``peer/members/founding.py``; an empty environment of no cell; the rows, in
transactions of some MB; and in one transaction the identity and all else. A directory in which that
broke off is taken by no daemon: delete it.
"""

from __future__ import annotations

from pathlib import Path

from ha_scheduler.cell.peers import Cell
from ha_scheduler.errors import OperatorError
from ha_scheduler.ledger.records import CellFounded
from ha_scheduler.peer.members import founding
from ha_scheduler.raft.messages import Membership, SnapshotMeta
from ha_scheduler.repair.found_anew import begin
from ha_scheduler.repair.offline import Offline
from ha_scheduler.repair.saved import chunks, verify
from ha_scheduler.storage.directory import DATA_FILE, DataDirectory
from ha_scheduler.storage.environment import MAP_BYTES, Identity, open_environment, read_slot
from ha_scheduler.storage.staging import stage, use_staged

_NO_CELL = "(a restore that broke off)"


def restore(path: Path, data_dir: Path, cell: Cell) -> CellFounded:
    """Make ``data_dir`` that of the one peer of ``cell``. Raises ``OperatorError`` and
    ``StorageError``.
    """
    if len(cell.peers) != 1:
        raise OperatorError(
            "A cell begins anew with one peer alone: --peers has to name it and nobody else; the "
            "others join it then, with empty disks and --join."
        )
    if (data_dir / DATA_FILE).exists() or founding.load(data_dir) is not None:
        raise OperatorError(
            f"{data_dir} has the data of a peer, which is not overwritten; name an empty directory."
        )
    head = verify(path).head
    name, peer_id = cell.names[0], cell.peer_id(cell.names[0])
    members = Membership((peer_id,))
    founding.create(data_dir, cell, peer_id, witness=False)
    directory = DataDirectory(data_dir, create=True)
    try:
        unfinished = Identity(_NO_CELL, name, peer_id)
        dbs = open_environment(directory, unfinished, True, members, MAP_BYTES)
        try:
            with dbs.env.begin() as txn:
                slot = read_slot(txn, dbs)
            stage(dbs, 1 - slot, chunks(path))
            meta = SnapshotMeta(head.index, head.term, members)
            offline = Offline(data_dir, Identity(head.cell, head.peer, peer_id), dbs)
            with dbs.env.begin(write=True) as txn:
                use_staged(txn, dbs, slot)
                return begin(offline, txn, Identity(cell.identity, name, peer_id), meta)
        finally:
            dbs.env.close()
    finally:
        directory.close()
