"""Derived tables: who names a session, and whose the sessions of calls are.

Guarantee: a derived table has exactly the rows that follow from the table it is derived of. So the
end of a client costs what ends with it, however many others there are.

Order: a row and its derived one are written and deleted in the same fold. Derived rows do not
travel in a dump: ``derive`` makes them of each row that is loaded, or found in a directory of a
release that did not have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from ha_scheduler.ledger.layout import NAME_BYTES, name_key, unpack
from ha_scheduler.ledger.tables import (
    CALL_SESSIONS,
    CLIENTS,
    OWNED_CALLS,
    SESSION_CLIENTS,
    Tables,
)

Row = tuple[str, bytes, bytes]  # table, key, value


class Rows(Protocol):
    """The part of ``Tables`` that deriving needs."""

    def put(self, table: str, key: bytes, value: bytes) -> None: ...


def put(tables: Rows, table: str, key: bytes, value: bytes) -> None:
    """Put a row with what is derived of it."""
    tables.put(table, key, value)
    for derived in derive(table, key, value):
        tables.put(*derived)


def delete(tables: Tables, table: str, key: bytes) -> bytes | None:
    """Delete a row with what is derived of it. Returns its value."""
    value = tables.get(table, key)
    if value is not None:
        tables.delete(table, key)
        for derived, derived_key, _ in derive(table, key, value):
            tables.delete(derived, derived_key)
    return value


def derive(table: str, key: bytes, value: bytes) -> Iterator[Row]:
    """The rows that follow from this one."""
    if table in _DERIVED:
        yield from _DERIVED[table](key, value)


def fill(tables: Tables) -> None:
    """Derive all rows, for a ledger that has none of them."""
    for table in _DERIVED:
        for key, value in tables.scan(table):
            for derived in derive(table, key, value):
                tables.put(*derived)


def is_named(tables: Tables, session: str) -> bool:
    """Whether a client of the ledger has this session."""
    return tables.has_any(SESSION_CLIENTS, name_key(session))


def owned_calls(tables: Tables, owner: str) -> Iterator[bytes]:
    """The keys of the sessions of calls of one owner."""
    return (key[NAME_BYTES:] for key in tables.keys(OWNED_CALLS, name_key(owner)))


def _of_client(key: bytes, value: bytes) -> Iterator[Row]:
    _, _, session, *_ = unpack(value)
    if session:
        yield SESSION_CLIENTS, name_key(session) + key, b""


def _of_call_session(key: bytes, value: bytes) -> Iterator[Row]:
    _, owner, *_ = unpack(value)
    yield OWNED_CALLS, name_key(owner) + key, b""


_DERIVED: dict[str, Callable[[bytes, bytes], Iterator[Row]]] = {
    CLIENTS: _of_client,
    CALL_SESSIONS: _of_call_session,
}
