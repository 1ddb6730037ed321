"""A peer's storage in LMDB: one environment for log, hard state and ledger.

Guarantee: the port's (see ``port``). Durable means fsynced by LMDB (``sync=True``, two syncs a
commit), without ``writemap`` (under which a full disk is a SIGBUS) and with LMDB's 0.9 format
(``lib_version=0``: the package bundles two that cannot read each other).

Order at open: the lock, the identity, what a vote relies on; only then may anything be written or
voted. The rest is read once in the background (``scrub``). ``transactional`` says what a
transaction does; the writer's thread alone writes, any thread reads.

A failed commit, or damage that a reader finds, ends the writing for good. Damage is noted, and the
next start refused. A full disk gives up the reserve first; a start that cannot renew it deletes the
applied log, which needs little room and frees much; one without room even then says so before this
peer can be elected.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path

import lmdb

from ha_scheduler import failpoints
from ha_scheduler.raft.messages import Membership
from ha_scheduler.storage.directory import DATA_FILE, RESERVE_BYTES, DataDirectory
from ha_scheduler.storage.environment import (
    MAP_BYTES,
    Databases,
    Identity,
    database_pages,
    open_environment,
    room_bytes,
    write_failure,
)
from ha_scheduler.storage.errors import CorruptData, DiskFull
from ha_scheduler.storage.log_view import RECENT_BYTES_MAX
from ha_scheduler.storage.port import OnDurable, Space, WriteBatch
from ha_scheduler.storage.scrub import Scrub, verify
from ha_scheduler.storage.transactional import TransactionalStore
from ha_scheduler.storage.writer import Writer

ROOM_MIN_BYTES = 16 * 1024 * 1024  # below, a peer could be elected and fail at its first entry

logger = logging.getLogger(__name__)


class LmdbStore(TransactionalStore):
    """``PeerStore`` in a directory."""

    def __init__(
        self, directory: DataDirectory, dbs: Databases, on_durable: OnDurable, recent_bytes_max: int
    ) -> None:
        """Use ``open``."""
        super().__init__(dbs, recent_bytes_max)
        self._directory = directory
        self._closed = False
        self._writer = Writer(self._commit, on_durable, name=f"store-{directory.path.name}")
        log_end = min(self.verified_from, self.last_index())
        self._scrub = Scrub(dbs, log_end, self.on_damage, name=f"scrub-{directory.path.name}")

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

        ``create``: make a new one if there is none; its log begins with ``membership`` (None for a
        peer that joins: it learns it from the leader). ``peer_id``: the Raft id of a disk that has
        none yet. Raises ``StorageError``.
        """
        directory = DataDirectory(path, create=create, reserve_bytes=reserve_bytes)
        dbs: Databases | None = None
        try:
            wanted = Identity(cell, peer, peer_id)
            dbs = open_environment(directory, wanted, create, membership, map_bytes)
            store = cls(directory, dbs, on_durable, recent_bytes_max)
            store._prepare()
        except BaseException as error:
            if dbs is not None:
                dbs.env.close()
                if dbs.cut_short and isinstance(error, CorruptData):
                    error = _cut_short(directory, error)
            directory.close()
            raise error
        store._writer.start()
        store._scrub.start()
        return store

    def space(self) -> Space:
        page = int(self._dbs.env.stat()["psize"])
        with self._dbs.env.begin() as txn:
            log = database_pages(txn.stat(self._dbs.log))
        return Space(log * page, room_bytes(self._directory, self._dbs))

    def observe_writes(self, observe: Callable[[float], None]) -> None:
        """Tell ``observe`` the seconds of each transaction, fsync included, in its thread."""
        self._writer.observe = observe

    def on_damage(self, error: CorruptData) -> None:
        self._directory.mark_damaged(error.where)
        self._writer.fail(error)

    def submit(self, batch: WriteBatch) -> None:
        self._writer.check_room(batch)
        self.admit(batch)
        self._writer.submit(batch)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._scrub.stop()
        self._writer.close()
        self._dbs.env.close()
        self._directory.close()

    def _prepare(self) -> None:
        """Make the directory fit for writes and votes. Raises ``StorageError``."""
        self._directory.mark_created()
        self._directory.forget_incoming()  # first: it may fill the disk
        if self._dbs.cut_short:
            for _ in verify(self._dbs, self.last_index(), inf):
                pass
        try:
            self.forget_staged()
            if self._directory.renew_reserve():
                return
            logger.warning(
                "the disk of %s is nearly full, and the log is cut down; free space on it",
                self._directory.path,
                extra={"action": "disk_low"},
            )
            self.forget_applied_log()
        except (lmdb.Error, OSError) as error:
            raise write_failure(self._directory, error) from error
        if self.space().room_bytes < ROOM_MIN_BYTES:
            raise DiskFull(self._directory.path, "the disk is full")

    def _commit(self, group: Sequence[WriteBatch]) -> None:
        """In the writer's thread. Any error ends the writing."""
        try:
            failpoints.reach("store.arrived")
            self.commit(group)
            failpoints.reach("store.durable")
        except CorruptData as error:
            self._directory.mark_damaged(error.where)
            raise
        except (lmdb.Error, OSError, MemoryError) as error:
            failure = write_failure(self._directory, error)
            if isinstance(failure, CorruptData):
                self._directory.mark_damaged(failure.where)
            raise failure from error


def _cut_short(directory: DataDirectory, found: CorruptData) -> CorruptData:
    """The cause of the damage, marked: the file has its size again at the next start."""
    error = CorruptData(directory.path, f"{DATA_FILE} (cut short; {found.where})")
    directory.mark_damaged(error.where)
    return error
