"""The rows of the LMDB environment, and how each proves itself.

Guarantee: LMDB returns flipped bits silently, so no row is believed without its crc32c. A row of
the log covers its own index and the crc of the row before it: the log is one chain, and an intact
row of another place or another history is noticed as well.

    log    index (8 bytes, big-endian) → crc | crc of the row before | term | kind | data
    peer   name → crc | msgpack        (identity, hard state, applied, compacted, ledger,
           dropped, repairs)
    t.*    one database per ledger table: key → crc | value
    u.*    the same again: one of the two sets is the ledger, the other stages the next snapshot

Order: the identity is written in the transaction that creates the databases and read before all
else; its format version decides whether this release may read on.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from crc32c import crc32c

from ha_scheduler.ledger.layout import pack, unpack
from ha_scheduler.ledger.tables import TABLES
from ha_scheduler.raft.messages import Entry, EntryKind
from ha_scheduler.storage.errors import CorruptLedger, CorruptLog

FORMAT_VERSION = 4  # see migrations.py

LOG_DB = b"log"
PEER_DB = b"peer"
TABLE_DBS = {table: b"t." + table.encode() for table in TABLES}
SLOTS = (TABLE_DBS, {table: b"u." + table.encode() for table in TABLES})
DATABASES_MAX = 64  # named databases of an environment; room for tables of later releases

IDENTITY = b"identity"  # (format version, cell, peer, peer id)
HARD_STATE = b"hard_state"  # (term, vote, commit)
APPLIED = b"applied"  # (index, term, voters, learners)
LEDGER = b"ledger"  # (slot): which set of tables is the ledger
DROPPED = b"dropped"  # (index, term) of each entry that an operator has dropped
REPAIRS = b"repairs"  # (seconds since 1970, sentence) of each repair of this directory
COMPACTED = b"compacted"  # (index, term, crc of the last compacted row)

CRC_BYTES = 4  # bytes before each value
CHAIN_START = 0  # the crc "before" a log that starts empty or after a snapshot

_INDEX = struct.Struct(">Q")
_CRC = struct.Struct(">I")
_ENTRY = struct.Struct(">IIQB")


def index_key(index: int) -> bytes:
    return _INDEX.pack(index)


def key_index(key: bytes) -> int:
    (index,) = _INDEX.unpack(key)
    return int(index)


def seal_entry(entry: Entry, before: int) -> tuple[bytes, int]:
    """The row of an entry and its crc; ``before`` is the crc of the row before it."""
    covered = _ENTRY.pack(0, before, entry.term, entry.kind)[CRC_BYTES:] + entry.data
    crc: int = crc32c(covered, crc32c(index_key(entry.index)))
    return _CRC.pack(crc) + covered, crc


def row_crc(row: bytes) -> int:
    """The crc that a row of the log carries, unchecked."""
    return int.from_bytes(row[:CRC_BYTES], "big")


def open_entry(path: Path, index: int, row: bytes, before: int | None) -> tuple[Entry, int]:
    """The entry of a row and its crc. Raises ``CorruptLog``.

    ``before``: the crc of the row before it, or None if unknown.
    """
    if len(row) < _ENTRY.size:
        raise CorruptLog(path, index, "cut short")
    crc, chained, term, kind = _ENTRY.unpack_from(row)
    if crc32c(row[CRC_BYTES:], crc32c(index_key(index))) != crc:
        raise CorruptLog(path, index, "its checksum does not match")
    if before is not None and chained != before:
        raise CorruptLog(path, index, "it does not follow the entry before it")
    return Entry(term, index, EntryKind(kind), row[_ENTRY.size :]), crc


def seal(key: bytes, value: bytes) -> bytes:
    """A row's value behind its crc, which covers the key as well."""
    crc: int = crc32c(value, crc32c(key))
    return _CRC.pack(crc) + value


def unseal(path: Path, table: str, key: bytes, row: bytes) -> bytes:
    """The value of ``seal``. Raises ``CorruptLedger``."""
    value = row[CRC_BYTES:]
    if len(row) < CRC_BYTES or _CRC.unpack_from(row)[0] != crc32c(value, crc32c(key)):
        raise CorruptLedger(path, table, key)
    return value


def put_fields(txn: Any, db: Any, key: bytes, fields: tuple[Any, ...]) -> None:
    """Write one row of the peer's own state."""
    txn.put(key, seal(key, pack(fields)), db=db)


def get_fields(txn: Any, db: Any, path: Path, key: bytes) -> Any:
    """One row of the peer's own state, or None. Raises ``CorruptLedger``."""
    row = txn.get(key, db=db)
    return None if row is None else unpack(unseal(path, PEER_DB.decode(), key, row))
