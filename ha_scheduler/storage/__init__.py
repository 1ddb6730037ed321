"""The log and ledger ports, and LMDB behind them. Start with ``port``."""

from ha_scheduler.storage.environment import check_identity
from ha_scheduler.storage.errors import (
    AddressSpaceLimited,
    CorruptData,
    CorruptLedger,
    CorruptLog,
    DataDirectoryLocked,
    DataDirectoryMissing,
    DataDirectoryUnusable,
    DiskFailed,
    DiskFull,
    ForeignDataDirectory,
    NewerFormat,
    StorageError,
    StoreClosed,
    StoreOverloaded,
)
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.storage.port import (
    LedgerView,
    OnDurable,
    PeerStore,
    SnapshotInstall,
    Space,
    WriteBatch,
)

__all__ = [
    "PeerStore",
    "WriteBatch",
    "SnapshotInstall",
    "Space",
    "LedgerView",
    "OnDurable",
    "LmdbStore",
    "check_identity",
    "StorageError",
    "AddressSpaceLimited",
    "CorruptData",
    "CorruptLedger",
    "CorruptLog",
    "DataDirectoryLocked",
    "DataDirectoryMissing",
    "DataDirectoryUnusable",
    "DiskFailed",
    "DiskFull",
    "ForeignDataDirectory",
    "NewerFormat",
    "StoreClosed",
    "StoreOverloaded",
]
