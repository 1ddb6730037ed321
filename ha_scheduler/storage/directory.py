"""A peer's data directory: whose it is, held by one process, with a reserve for bad days.

Guarantee: while ``DataDirectory`` is open no other process opens the same one (an advisory lock on
the file ``lock``, released by the kernel). Nothing is written before the lock is held.

The reserve is a file of allocated blocks. A full LMDB needs space to free space (pages are copied
first), so on a full disk the reserve is given up, and the next start can compact.

The file ``damaged`` records damage that a run has found: the next start does not read every row.
The file ``created`` says that there has been data: if only LMDB's file is gone (deleted, or put
aside by fsck), the directory must not be taken for a new one, under an id that has voted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from pathlib import Path

from ha_scheduler.storage.errors import (
    CorruptData,
    DataDirectoryLocked,
    DataDirectoryMissing,
    DataDirectoryUnusable,
)

RESERVE_BYTES = 64 * 1024 * 1024  # some hundred transactions of compaction
DATA_FILE = "data.mdb"  # LMDB's name for it
INCOMING_FILE = "snapshot.incoming"  # the spool of a snapshot
_LOCK_FILE = "lock"
_RESERVE_FILE = "reserve"
_DAMAGED_FILE = "damaged"
_CREATED_FILE = "created"
_DAMAGED_BYTES_MAX = 1000
_DIRECTORY_MODE = 0o700  # the ledger holds users' graphs
FILE_MODE = 0o600


def erase(path: Path) -> None:
    """Delete what a peer has stored in ``path``; the next start makes it anew."""
    for name in (_CREATED_FILE, DATA_FILE):  # the mark first: it says that the other must be there
        (path / name).unlink(missing_ok=True)


class DataDirectory:
    def __init__(self, path: Path, *, create: bool, reserve_bytes: int = RESERVE_BYTES) -> None:
        """Raises ``DataDirectoryMissing``, ``…Unusable`` or ``…Locked``, and ``CorruptData``."""
        self.path = path
        self._reserve_bytes = reserve_bytes
        try:
            self._check_not_lost()
            if create:
                path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            elif not (path / DATA_FILE).exists():
                raise DataDirectoryMissing(path)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock = os.open(path / _LOCK_FILE, flags, FILE_MODE)
        except OSError as error:
            raise DataDirectoryUnusable(path, str(error)) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise DataDirectoryLocked(path) from error
            raise DataDirectoryUnusable(path, str(error)) from error

    @property
    def reserve(self) -> Path:
        return self.path / _RESERVE_FILE

    def renew_reserve(self) -> bool:
        """Allocate the reserve if there is ample space. Returns whether it exists."""
        if self.reserve.exists() and self.reserve.stat().st_size == self._reserve_bytes:
            return True
        if self.free_bytes() < 2 * self._reserve_bytes:
            return False
        descriptor = os.open(self.reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            if self._reserve_bytes:
                os.posix_fallocate(descriptor, 0, self._reserve_bytes)
        except OSError:
            self.release_reserve()
            return False
        finally:
            os.close(descriptor)
        return True

    def release_reserve(self) -> None:
        """Free the reserve on a full disk, for the next start."""
        with contextlib.suppress(OSError):
            self.reserve.unlink(missing_ok=True)

    def forget_incoming(self) -> None:
        """Delete the spool of an earlier run."""
        with contextlib.suppress(OSError):
            (self.path / INCOMING_FILE).unlink(missing_ok=True)

    def _check_not_lost(self) -> None:
        data = self.path / DATA_FILE
        if (self.path / _CREATED_FILE).exists() and not (data.exists() and data.stat().st_size):
            raise CorruptData(self.path, f"{DATA_FILE} (it was there, and is missing or empty)")

    def mark_created(self) -> None:
        """Mark that LMDB's file has an identity and must not be missing from now on."""
        path = self.path / _CREATED_FILE
        if not path.exists():
            with contextlib.suppress(OSError):  # a full disk; the next start tries again
                path.touch(mode=FILE_MODE)
                self.sync()

    def mark_damaged(self, where: str) -> None:
        """Mark damage for the next start, if the disk can still be written."""
        with contextlib.suppress(OSError):
            with (self.path / _DAMAGED_FILE).open("w") as file:
                file.write(where + "\n")
                file.flush()
                os.fsync(file.fileno())
            self.sync()

    def damage(self) -> str | None:
        """The damage that an earlier run found, if any."""
        path = self.path / _DAMAGED_FILE
        if not path.exists():
            return None
        return path.read_bytes()[:_DAMAGED_BYTES_MAX].decode(errors="replace").strip() or "a row"

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def sync(self) -> None:
        """Make the names of new files durable; LMDB syncs only their contents."""
        for path in (self.path, self.path.parent):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        os.close(self._lock)
