"""The port of the ledger's rows in dicts."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from ha_scheduler.ledger.tables import KEY_BYTES_MAX, TABLES, VALUE_BYTES_MAX


class MemoryTables:
    """``Tables``, with the limits of LMDB."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[bytes, bytes]] = {table: {} for table in TABLES}
        self._order: dict[str, list[bytes]] = {table: [] for table in TABLES}

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._rows[table].get(key)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        assert 0 < len(key) <= KEY_BYTES_MAX, len(key)
        assert len(value) <= VALUE_BYTES_MAX, len(value)
        if key not in self._rows[table]:
            insort(self._order[table], key)
        self._rows[table][key] = bytes(value)

    def delete(self, table: str, key: bytes) -> bool:
        if self._rows[table].pop(key, None) is None:
            return False
        order = self._order[table]
        del order[bisect_left(order, key)]
        return True

    def keys(self, table: str, prefix: bytes = b"") -> Iterator[bytes]:
        begin, end = self._span(table, prefix)
        return iter(self._order[table][begin:end])

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        rows = self._rows[table]
        return iter([(key, rows[key]) for key in self.keys(table, prefix)])

    def has_any(self, table: str, prefix: bytes) -> bool:
        return next(self.keys(table, prefix), None) is not None

    def delete_prefix(self, table: str, prefix: bytes) -> int:
        begin, end = self._span(table, prefix)
        for key in self._order[table][begin:end]:
            del self._rows[table][key]
        del self._order[table][begin:end]
        return end - begin

    def copy(self) -> MemoryTables:
        """The rows as they are now; later changes touch only one of the two."""
        twin = MemoryTables()
        twin._rows = {table: dict(rows) for table, rows in self._rows.items()}
        twin._order = {table: list(order) for table, order in self._order.items()}
        return twin

    def _span(self, table: str, prefix: bytes) -> tuple[int, int]:
        order = self._order[table]
        begin = bisect_left(order, prefix)
        end = begin
        while end < len(order) and order[end].startswith(prefix):
            end += 1
        return begin, end
