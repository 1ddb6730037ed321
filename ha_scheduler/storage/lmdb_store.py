"""A peer's storage in LMDB: one environment for log, hard state and ledger.

Guarantee: the port's (see ``port``). Durable means fsynced by LMDB (``sync=True``, two syncs a
commit), without ``writemap`` (under which a full disk is a SIGBUS) and with LMDB's 0.9 format
(``lib_version=0``: the package bundles two that cannot read each other).

Order at open: the lock, then the identity, then every row of the log, and only then may anything
be written or voted. What a transaction does is ``transactional``'s; write transactions happen only
in the writer's thread, reads in any.

Any failed commit ends the writing for good. A full disk gives up the reserve file first, so that
the next start has room to compact.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lmdb

from ha_scheduler.raft import Membership
from ha_scheduler.storage.directory import RESERVE_BYTES, DataDirectory
from ha_scheduler.storage.environment import (
    MAP_BYTES,
    Databases,
    Identity,
    open_environment,
    write_failure,
)
from ha_scheduler.storage.log_view import RECENT_BYTES_MAX
from ha_scheduler.storage.port import OnDurable, WriteBatch
from ha_scheduler.storage.transactional import TransactionalStore
from ha_scheduler.storage.writer import Writer, WriterStats


class LmdbStore(TransactionalStore):
    """``PeerStore`` in a directory."""

    def __init__(
        self,
        directory: DataDirectory,
        dbs: Databases,
        on_durable: OnDurable,
        recent_bytes_max: int,
    ) -> None:
        """Use ``open``."""
        super().__init__(dbs, recent_bytes_max)
        self._directory = directory
        self._closed = False
        self._writer = Writer(self._commit, on_durable, name=f"store-{directory.path.name}")

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        cell: str,
        peer: str,
        peer_id: int,
        create: bool,
        on_durable: OnDurable,
        membership: Membership | None = None,
        map_bytes: int = MAP_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
        recent_bytes_max: int = RECENT_BYTES_MAX,
    ) -> LmdbStore:
        """Open the directory of ``peer`` of ``cell``, verify it, and start the writer.

        ``create``: make a new one if there is none; its log begins with ``membership`` (a peer
        that joins a cell gives none and learns it from the leader). ``peer_id`` becomes the Raft
        id of a disk that has none; one that has keeps its own. Raises ``StorageError``.
        """
        directory = DataDirectory(path, create=create, reserve_bytes=reserve_bytes)
        dbs: Databases | None = None
        try:
            dbs = open_environment(
                directory, Identity(cell, peer, peer_id), create, membership, map_bytes
            )
            store = cls(directory, dbs, on_durable, recent_bytes_max)
        except BaseException:
            if dbs is not None:
                dbs.env.close()
            directory.close()
            raise
        directory.renew_reserve()
        store._writer.start()
        return store

    @property
    def stats(self) -> WriterStats:
        """What the writer has done so far."""
        return self._writer.stats

    def submit(self, batch: WriteBatch) -> None:
        self._writer.check_room(batch)
        self.admit(batch)
        self._writer.submit(batch)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        self._dbs.env.close()
        self._directory.close()

    def _commit(self, group: Sequence[WriteBatch]) -> None:
        """In the writer's thread. Raises what ends the writing."""
        try:
            self.commit(group)
        except (lmdb.Error, OSError, MemoryError) as error:
            raise write_failure(self._directory, error) from error
