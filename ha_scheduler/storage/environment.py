"""Opening the LMDB environment: identity first, then the rest; and the meaning of its errors.

Guarantee: an environment of another cell, another peer or a newer release is left as it was found.
A creation that was interrupted before its identity was committed is begun again. One of an older
release is migrated before anything else is read.

A file shorter than its header says is filled up with zeros: LMDB maps it, and a read past its end
kills the process (SIGBUS), while zeros pass no check. It is then verified as a whole, since LMDB
may rightly have left free pages at its end unwritten.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lmdb

from ha_scheduler.raft.messages import HardState, Membership, SnapshotMeta
from ha_scheduler.storage.directory import DATA_FILE, FILE_MODE, DataDirectory
from ha_scheduler.storage.errors import (
    AddressSpaceLimited,
    CorruptData,
    CorruptLedger,
    DataDirectoryMissing,
    DataDirectoryUnusable,
    DiskFailed,
    DiskFull,
    ForeignDataDirectory,
    NewerFormat,
    StorageError,
)
from ha_scheduler.storage.log_table import LogDbs
from ha_scheduler.storage.migrations import migrate
from ha_scheduler.storage.schema import (
    APPLIED,
    DATABASES_MAX,
    DROPPED,
    FORMAT_VERSION,
    HARD_STATE,
    IDENTITY,
    LEDGER,
    LOG_DB,
    PEER_DB,
    SLOTS,
    get_fields,
    put_fields,
)

MAP_BYTES = 1 << 40  # of address space, not of disk
READERS_MAX = 512  # read transactions at a time
FULL_BELOW_BYTES = 16 * 1024 * 1024  # free bytes below which an I/O error means a full disk


@dataclass(frozen=True, slots=True)
class Identity:
    """The owner of a disk. The name is the peer's; ``peer_id``, the Raft id, is the disk's."""

    cell: str
    peer: str
    peer_id: int


@dataclass(frozen=True, slots=True)
class Databases:
    """The environment, the handles of its databases, and the Raft id of this disk.

    ``cut_short``: the file was filled up and must be verified as a whole.
    """

    peer_id: int
    env: Any
    log: Any
    peer: Any
    slots: tuple[dict[str, Any], ...]  # the tables of the ledger, twice
    log_dbs: LogDbs
    cut_short: bool = False


def open_environment(
    directory: DataDirectory,
    wanted: Identity,
    create: bool,
    membership: Membership | None,
    map_bytes: int,
) -> Databases:
    """The environment of ``wanted``, whose id is used if the disk has none. Raises
    ``StorageError``.
    """
    env = _open(directory, map_bytes)
    try:
        cut_short = _is_cut_short(env, directory)
        if cut_short:
            os.truncate(directory.path / DATA_FILE, _file_bytes(env))
        dbs = databases_of(env, directory, wanted, create, membership)
        return replace(dbs, cut_short=cut_short)
    except BaseException:
        env.close()
        raise


def databases_of(
    env: Any,
    directory: DataDirectory,
    wanted: Identity,
    create: bool,
    membership: Membership | None,
) -> Databases:
    """The databases of an environment, created or migrated if need be. Raises ``StorageError``."""
    found = _identity(env, directory, wanted.cell, wanted.peer)
    if found is None and not create:
        raise DataDirectoryMissing(directory.path)
    try:
        if found is None:
            _create(env, directory, wanted, membership or Membership(()))
        elif found[0] < FORMAT_VERSION:
            peer_db = env.open_db(PEER_DB, create=False)
            migrate(env, peer_db, directory.path, found[0], wanted.peer_id)
        return _databases(env, directory)
    except (lmdb.Error, OSError) as error:
        raise write_failure(directory, error) from error


def open_existing(directory: DataDirectory) -> tuple[Identity, Databases]:
    """The environment that is there, of whatever peer; migrated if need be.

    Raises ``StorageError``.
    """
    env = _open(directory, MAP_BYTES)
    try:
        found = None if _is_cut_short(env, directory) else _read_identity(env, directory)
        if found is None:
            raise CorruptData(directory.path, f"{DATA_FILE} (cut short, or without an identity)")
        _, cell, peer, *rest = found
        wanted = Identity(cell, peer, rest[0] if rest else 0)
        return wanted, databases_of(env, directory, wanted, False, None)
    except BaseException:
        env.close()
        raise


def check_identity(path: Path, cell: str, peer: str) -> None:
    """Whether the data at ``path`` may be opened by ``peer`` of ``cell``; writes nothing.

    The start itself looks again, and closer. Raises ``DataDirectoryLocked``,
    ``ForeignDataDirectory``, ``NewerFormat`` and ``CorruptData``.
    """
    if not (path / DATA_FILE).exists():
        return
    directory = DataDirectory(path, create=False)
    try:
        env = _open(directory, MAP_BYTES, readonly=True)
        try:
            if not _is_cut_short(env, directory):
                _identity(env, directory, cell, peer)
        finally:
            env.close()
    finally:
        directory.close()


def read_hard_state(txn: Any, dbs: Databases) -> HardState:
    """Term, vote and commit as stored."""
    return HardState(*_required(txn, dbs, HARD_STATE))


def read_applied(txn: Any, dbs: Databases) -> SnapshotMeta:
    """The applied state of the ledger's tables."""
    index, term, voters, learners = _required(txn, dbs, APPLIED)
    return SnapshotMeta(index, term, Membership(voters, learners))


def read_dropped(txn: Any, dbs: Databases) -> dict[int, int]:
    """The index of each entry that an operator has dropped, with its term."""
    found = get_fields(txn, dbs.peer, dbs.log_dbs.path, DROPPED)
    return dict(found or ())


def read_slot(txn: Any, dbs: Databases) -> int:
    """The slot of the ledger in ``dbs.slots``, in this transaction."""
    (slot,) = _required(txn, dbs, LEDGER)
    return int(slot)


def room_bytes(directory: DataDirectory, dbs: Databases) -> int:
    """Free bytes: on the disk, and in free pages of the file."""
    page = int(dbs.env.stat()["psize"])
    with dbs.env.begin() as txn:
        handles = (dbs.log, dbs.peer, *(db for slot in dbs.slots for db in slot.values()))
        used = sum(database_pages(txn.stat(handle)) for handle in handles)
    inside = int(dbs.env.info()["last_pgno"]) + 1 - used - database_pages(dbs.env.stat())
    return directory.free_bytes() + max(inside, 0) * page


def database_pages(stat: Mapping[str, int]) -> int:
    """The pages of one database, by LMDB's own count."""
    return stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]


def write_failure(directory: DataDirectory, error: Exception) -> StorageError:
    """A failed transaction as the error that ends this process."""
    path = directory.path
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError):
        return CorruptData(path, f"{DATA_FILE} ({error})")
    if isinstance(error, lmdb.MapFullError):
        return DiskFull(path, "the map is full")
    code = getattr(error, "code", None) or getattr(error, "errno", None)
    if code == errno.ENOSPC or directory.free_bytes() < FULL_BELOW_BYTES:
        directory.release_reserve()
        return DiskFull(path, f"the disk is full: {error}")
    return DiskFailed(path, str(error))


def _open(directory: DataDirectory, map_bytes: int, readonly: bool = False) -> Any:
    try:
        return lmdb.open(
            str(directory.path),
            map_size=map_bytes,
            subdir=True,
            mode=FILE_MODE,
            sync=True,
            metasync=True,
            writemap=False,
            lock=not readonly,  # our own lock is held anyway
            readonly=readonly,
            max_dbs=DATABASES_MAX,
            max_readers=READERS_MAX,
            lib_version=0,
        )
    except lmdb.MemoryError as error:
        raise AddressSpaceLimited(directory.path, map_bytes) from error
    except lmdb.VersionMismatchError as error:
        raise NewerFormat(directory.path, "of another LMDB", FORMAT_VERSION) from error
    except (lmdb.InvalidError, lmdb.CorruptedError) as error:
        raise CorruptData(directory.path, f"{DATA_FILE} ({error})") from error
    except (lmdb.Error, OSError) as error:
        raise DataDirectoryUnusable(directory.path, str(error)) from error


def _file_bytes(env: Any) -> int:
    """The size by the header."""
    return (int(env.info()["last_pgno"]) + 1) * int(env.stat()["psize"])


def _is_cut_short(env: Any, directory: DataDirectory) -> bool:
    return (directory.path / DATA_FILE).stat().st_size < _file_bytes(env)


def _read_identity(env: Any, directory: DataDirectory) -> Any:
    """The identity's fields, the format first; None if new. Raises ``StorageError``."""
    try:
        with env.begin() as txn:
            db = env.open_db(PEER_DB, txn=txn, create=False)
            found = get_fields(txn, db, directory.path, IDENTITY)
    except lmdb.NotFoundError:
        return None
    except lmdb.Error as error:
        raise CorruptData(directory.path, f"the identity ({error})") from error
    if found is not None and found[0] > FORMAT_VERSION:
        raise NewerFormat(directory.path, found[0], FORMAT_VERSION)
    return found


def _identity(env: Any, directory: DataDirectory, cell: str, peer: str) -> Any:
    """As ``_read_identity``, of this peer of this cell."""
    found = _read_identity(env, directory)
    if found is None:
        return None
    found_cell, found_peer = found[1:3]
    if (found_cell, found_peer) != (cell, peer):
        raise ForeignDataDirectory(
            directory.path,
            f"peer {found_peer!r} of cell {found_cell!r}",
            f"peer {peer!r} of cell {cell!r}",
        )
    if (damage := directory.damage()) is not None:
        raise CorruptData(directory.path, damage)
    return found


def _create(env: Any, directory: DataDirectory, own: Identity, membership: Membership) -> None:
    """Every database and the first rows in one transaction."""
    with env.begin(write=True) as txn:
        for name in (LOG_DB, *(name for slot in SLOTS for name in slot.values())):
            env.open_db(name, txn=txn, create=True)
        db = env.open_db(PEER_DB, txn=txn, create=True)
        put_fields(txn, db, IDENTITY, (FORMAT_VERSION, own.cell, own.peer, own.peer_id))
        put_fields(txn, db, LEDGER, (0,))
        put_fields(txn, db, HARD_STATE, (0, 0, 0))
        put_fields(txn, db, APPLIED, (0, 0, membership.voters, membership.learners))
    directory.sync()


def _databases(env: Any, directory: DataDirectory) -> Databases:
    log, peer = env.open_db(LOG_DB, create=False), env.open_db(PEER_DB, create=False)
    slots = tuple(
        {table: env.open_db(name, create=True) for table, name in slot.items()} for slot in SLOTS
    )
    with env.begin() as txn:
        _, _, _, peer_id = get_fields(txn, peer, directory.path, IDENTITY)
    return Databases(peer_id, env, log, peer, slots, LogDbs(log, peer, directory.path))


def _required(txn: Any, dbs: Databases, key: bytes) -> Any:
    fields = get_fields(txn, dbs.peer, dbs.log_dbs.path, key)
    if fields is None:
        raise CorruptLedger(dbs.log_dbs.path, PEER_DB.decode(), key)
    return fields
