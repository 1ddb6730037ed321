"""The subset of LMDB's interface that the store uses, over rows in memory.

Guarantee: what py-lmdb does on the same calls (``test_environment.py`` compares the two): ordered
rows in named databases, one write transaction at a time that sees its own writes, all of it or
nothing when it ends. Misuse that LMDB would forgive or hang on is an assertion here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from types import TracebackType

import lmdb

_Undo = list[tuple["Rows", bytes, bytes | None]]


class PowerCutError(BaseException):
    """The machine is gone in the midst of a commit. Not an error that the store may handle."""


class Rows:
    """One named database."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.values: dict[bytes, bytes] = {}
        self.order: list[bytes] = []
        #: What stood there before the value that does, or did: what a lost write brings back.
        self.older: dict[bytes, bytes] = {}

    def set(self, key: bytes, value: bytes | None) -> bytes | None:
        """Write or (None) remove one row. Returns what was there."""
        before = self.values.get(key)
        if before is not None:
            self.older[key] = before
        if value is None:
            if before is not None:
                del self.values[key]
                del self.order[bisect_left(self.order, key)]
        else:
            if before is None:
                insort(self.order, key)
            self.values[key] = value
        return before


class SimEnvironment:
    """``lmdb.Environment``."""

    def __init__(self) -> None:
        self.databases: dict[bytes, Rows] = {}
        #: Raised by the next commit instead of ``None``; what it wrote is there or not.
        self.failure: tuple[Exception, bool] | None = None
        #: Transactions that still commit before the power is cut.
        self.commits_left: int | None = None
        #: Undo logs of committed transactions, newest last, while somebody wants them.
        self.history: list[_Undo] | None = None
        self._writing = False

    def open_db(self, name: bytes, txn: SimTransaction | None = None, create: bool = True) -> Rows:
        if name not in self.databases:
            if not create:
                raise lmdb.NotFoundError("mdb_dbi_open: MDB_NOTFOUND")
            self.databases[name] = Rows(name)
        return self.databases[name]

    def begin(self, write: bool = False) -> SimTransaction:
        assert not (write and self._writing), "one write transaction at a time: LMDB would hang"
        self._writing |= write
        return SimTransaction(self, write)

    def finish(self, undo: _Undo, commit: bool) -> None:
        """A write transaction ends."""
        self._writing = False
        if commit and self.commits_left is not None:
            self.commits_left -= 1
            if self.commits_left < 0:
                revert(undo)
                raise PowerCutError
        failure, self.failure = self.failure, None
        if not commit or (failure is not None and not failure[1]):
            revert(undo)
        elif self.history is not None:
            self.history.append(undo)
        if commit and failure is not None:
            raise failure[0]

    def close(self) -> None:
        """Nothing to release."""


def revert(undo: _Undo) -> None:
    """Take the writes of one transaction back."""
    for rows, key, before in reversed(undo):
        rows.set(key, before)


class SimTransaction:
    """``lmdb.Transaction``, used as a context."""

    def __init__(self, env: SimEnvironment, write: bool) -> None:
        self._env = env
        self._write = write
        self._undo: _Undo = []

    def __enter__(self) -> SimTransaction:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._write:
            self._env.finish(self._undo, commit=kind is None)

    def get(self, key: bytes, db: Rows) -> bytes | None:
        return db.values.get(key)

    def put(self, key: bytes, value: bytes, db: Rows, append: bool = False) -> bool:
        assert self._write
        assert not append or not db.order or key > db.order[-1], "LMDB refuses to append this"
        self._set(db, key, bytes(value))
        return True

    def delete(self, key: bytes, db: Rows) -> bool:
        assert self._write
        return self._set(db, key, None) is not None

    def drop(self, db: Rows, delete: bool = True) -> None:
        assert self._write
        assert not delete, "the store only empties databases"
        for key in tuple(db.order):
            self._set(db, key, None)

    def stat(self, db: Rows) -> dict[str, int]:
        return {"entries": len(db.order)}

    def cursor(self, db: Rows) -> SimCursor:
        return SimCursor(self, db)

    def _set(self, db: Rows, key: bytes, value: bytes | None) -> bytes | None:
        before = db.set(key, value)
        self._undo.append((db, key, before))
        return before


class SimCursor:
    """``lmdb.Cursor``: on a row, or on none, where ``key()`` is empty."""

    def __init__(self, txn: SimTransaction, rows: Rows) -> None:
        self._txn = txn
        self._rows = rows
        self._key = b""

    def __enter__(self) -> SimCursor:
        return self

    def __exit__(self, *_: object) -> None:
        self._key = b""

    def first(self) -> bool:
        return self._move(0)

    def last(self) -> bool:
        return self._move(len(self._rows.order) - 1) if self._rows.order else self._move(0)

    def set_range(self, key: bytes) -> bool:
        return self._move(bisect_left(self._rows.order, key))

    def next(self) -> bool:
        if not self._key:
            return self.first()
        return self._move(bisect_right(self._rows.order, self._key))

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes:
        return self._rows.values[self._key] if self._key else b""

    def delete(self) -> bool:
        if not self._key:
            return False
        place = bisect_left(self._rows.order, self._key)
        self._txn.delete(self._key, self._rows)
        self._move(place)
        return True

    def _move(self, place: int) -> bool:
        order = self._rows.order
        self._key = order[place] if place < len(order) else b""
        return bool(self._key)
