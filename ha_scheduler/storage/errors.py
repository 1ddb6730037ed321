"""The errors of a peer's storage, by origin, with the operator's next step.

    StorageError
    ├── DataDirectoryMissing   operator: nothing there, and creating was not asked for
    ├── DataDirectoryUnusable  operator: its files may not be opened
    ├── DataDirectoryLocked    operator: another process runs on it
    ├── ForeignDataDirectory   operator: it belongs to another cell or another peer
    ├── NewerFormat            operator: written by a newer release
    ├── AddressSpaceLimited    operator: the process may not map the file
    ├── StoreOverloaded        local: the disk does not keep up and the caller did not wait
    ├── StoreClosed            local: used after close
    ├── CorruptData            disk: what is read back is not what was written
    │   ├── CorruptLog
    │   └── CorruptLedger
    └── DiskFailed             disk: a commit failed
        └── DiskFull

Order: after ``DiskFailed`` or ``CorruptData`` the process exits without another vote or
acknowledgement. A commit is never retried: after a failed fsync the next one succeeds although the
data may be lost.
"""

from __future__ import annotations

from pathlib import Path

REPLACE = (
    "delete all in that directory but tls/, and start this peer once with --replace among its "
    "options (dask-ha-scheduler … --replace): the others bring it up to date"
)


class StorageError(Exception):
    """Base of all errors of a peer's storage; never raised itself."""


class DataDirectoryMissing(StorageError):
    """Operator: there is no data here."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} holds no data of a peer; correct the path, or ask for a new peer explicitly "
            "if this one has never run"
        )


class DataDirectoryUnusable(StorageError):
    """Operator: the directory is there, and this process may not use it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} cannot be used ({why}); let the user of this process own the directory and "
            "all that is in it, on a disk that can be written, or name another one"
        )


class DataDirectoryLocked(StorageError):
    """Operator: two processes on one directory."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"another process runs on {path}; stop it first, or give this peer a directory of "
            "its own"
        )


class ForeignDataDirectory(StorageError):
    """Operator: the directory is another's. Nothing was written to it."""

    def __init__(self, path: Path, found: str, wanted: str) -> None:
        super().__init__(
            f"{path} belongs to {found}, this is {wanted}; correct the path or the names, and "
            "do not delete the directory unless that peer has left its cell"
        )


class NewerFormat(StorageError):
    """Operator: a downgrade. Nothing was written."""

    def __init__(self, path: Path, found: int | str, known: int) -> None:
        super().__init__(
            f"{path} has format {found}, this release knows up to {known}: a newer one wrote it; "
            "upgrade this peer to that release"
        )


class AddressSpaceLimited(StorageError):
    """Operator: the map is far larger than the file, and this process has a limit."""

    def __init__(self, path: Path, map_bytes: int) -> None:
        super().__init__(
            f"{path} cannot be mapped: that takes {map_bytes >> 30} GiB of addresses (not of "
            "memory), and this process may not have as many; start it without that limit "
            "(ulimit -v unlimited, LimitAS=infinity)"
        )


class StoreOverloaded(StorageError):
    """Local: more was submitted than the queue holds; wait for completions first."""

    def __init__(self, batches: int, bytes_queued: int) -> None:
        super().__init__(
            f"{batches} batches ({bytes_queued} bytes) wait for the disk; wait for completions "
            "before submitting more"
        )


class StoreClosed(StorageError):
    """Local: the store was closed."""

    def __init__(self) -> None:
        super().__init__("the store is closed; open it again")


class CorruptData(StorageError):
    """Disk: what is read back is not what was written. This peer must not vote."""

    def __init__(self, path: Path, where: str) -> None:
        super().__init__(
            f"{path}: {where} is damaged. This peer must not take part with it: check the disk and "
            f"the memory of this host, then {REPLACE}"
        )
        self.path = path
        self.where = where


class CorruptLog(CorruptData):
    """Disk: an entry of the log, or one of the rows that describe it."""

    def __init__(self, path: Path, index: int, why: str) -> None:
        super().__init__(path, f"log entry {index} ({why})")
        self.index = index


class CorruptLedger(CorruptData):
    """Disk: a row of the ledger's tables or of the peer's own state."""

    def __init__(
        self, path: Path, table: str, key: bytes, why: str = "its checksum does not match"
    ) -> None:
        name = key.decode() if key.isalnum() or key == b"hard_state" else key.hex()
        super().__init__(path, f"row {name} of table {table!r} ({why})")
        self.table = table
        self.key = key


class DiskFailed(StorageError):
    """Disk: a commit failed; whether its data is there is unknown. Exit, reopen, never retry."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"writing to {path} failed ({why}); this peer stops. Check the disk, then start it "
            "again: what it had acknowledged is rechecked when it opens"
        )
        self.path = path


class DiskFull(DiskFailed):
    """Disk: no room. Committed data is intact."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(path, f"no room: {why}; free space first")
