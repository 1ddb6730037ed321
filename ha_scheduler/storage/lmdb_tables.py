"""The ledger's tables inside one LMDB transaction.

Guarantee: the contract of ``ledger.tables``; every row read, even for its key alone, has passed its
crc32c of key and value, or ``CorruptLedger`` names it. Rows come in the order of their keys, and a
scan of a whole table has as many as were put. A row whose key the disk has changed looks absent;
reading all finds it (``scrub``).

Order: the transaction is the caller's, who commits or aborts it. A scan collects its keys first in
a write transaction, because the fold deletes while it scans; in a read transaction it streams.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ha_scheduler.ledger.tables import KEY_BYTES_MAX, VALUE_BYTES_MAX
from ha_scheduler.storage.errors import CorruptLedger
from ha_scheduler.storage.schema import seal, unseal


class LmdbTables:
    def __init__(self, txn: Any, dbs: Mapping[str, Any], path: Path, *, writable: bool) -> None:
        self._txn = txn
        self._dbs = dbs
        self._path = path
        self._writable = writable

    def get(self, table: str, key: bytes) -> bytes | None:
        row = self._txn.get(key, db=self._dbs[table])
        return None if row is None else unseal(self._path, table, key, row)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        assert 0 < len(key) <= KEY_BYTES_MAX, len(key)
        assert len(value) <= VALUE_BYTES_MAX, len(value)
        self._txn.put(key, seal(key, value), db=self._dbs[table])

    def delete(self, table: str, key: bytes) -> bool:
        return bool(self._txn.delete(key, db=self._dbs[table]))

    def keys(self, table: str, prefix: bytes = b"") -> Iterator[bytes]:
        keys = (key for key, _ in self._stream(table, prefix))
        return iter(list(keys)) if self._writable else keys

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        if not self._writable:
            yield from self._stream(table, prefix)
            return
        for key in list(self._unverified_keys(table, prefix)):
            value = self.get(table, key)
            if value is not None:
                yield key, value

    def has_any(self, table: str, prefix: bytes) -> bool:
        return any(True for _ in self._stream(table, prefix))

    def delete_prefix(self, table: str, prefix: bytes) -> int:
        db = self._dbs[table]
        if not prefix:
            count = int(self._txn.stat(db)["entries"])
            self._txn.drop(db, delete=False)
            return count
        count = 0
        with self._txn.cursor(db=db) as cursor:
            found = cursor.set_range(prefix)
            while found and cursor.key().startswith(prefix):
                cursor.delete()  # moves on to the next row
                count += 1
                found = bool(cursor.key())
        return count

    def _unverified_keys(self, table: str, prefix: bytes) -> Iterator[bytes]:
        with self._txn.cursor(db=self._dbs[table]) as cursor:
            found = cursor.set_range(prefix) if prefix else cursor.first()
            while found and (key := cursor.key()).startswith(prefix):
                yield key
                found = cursor.next()

    def _stream(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        count, before = 0, b""
        with self._txn.cursor(db=self._dbs[table]) as cursor:
            found = cursor.set_range(prefix) if prefix else cursor.first()
            while found and (key := cursor.key()).startswith(prefix):
                if key <= before:
                    raise CorruptLedger(self._path, table, key, "it is not in its place")
                count, before = count + 1, key
                yield key, unseal(self._path, table, key, cursor.value())
                found = cursor.next()
        if not prefix and count != (expected := int(self._txn.stat(self._dbs[table])["entries"])):
            why = f"it is the last of {count} where {expected} should be"
            raise CorruptLedger(self._path, table, before, why)
