"""Replicated tables: named facts that the next leader knows as this one does.

Guarantee: the owner of a fact declares a ``Table`` once, in its own module, and adds it to
``ReplicatedTables``. From then on each row that a leader writes (``transactions.py``) is on every
follower that has applied the record, in an engine started on the ledger, and so on every later
leader, until it is deleted. A row that cannot be read here, for want of a module, is as one that
was deleted; it does not end the engine.

Order: ``apply`` runs for each row as it commits, and in a rebuild before the graphs; ``lead``
when the engine is about to lead, before its port is bound; ``settle`` when the workers' reports
have been adopted, before anybody but a worker is answered. Those of one kind run in the order in
which the tables were added, and none relies on it.

Not everything is a table. What the ledger has to understand is a record of its own
(``ledger/records.py``): what it puts in order or ends together (graphs, desires, releases, errors,
retries, scattered keys, a restart), what it answers by (clients, sessions, numbered calls), and
what daemons read (terms, peers, parts of blobs). A table's rows it only keeps, by space and name.

``docs/how-to/add-a-replicated-table.md`` adds one step by step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from distributed.protocol.pickle import loads

from ha_scheduler.engine.stream.keys import decode_key

logger = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")


class Deleted(Enum):
    """The type of ``DELETED``."""

    DELETED = "deleted"


DELETED: Final = Deleted.DELETED  # in place of the value of a row that is gone


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be recorded of a row: its new value, or ``DELETED``."""

    space: str
    key: Any
    value: Any


@dataclass(eq=False, slots=True)
class Table(Generic[K, V]):
    """The declaration of one table.

    ``space``: its name in the ledger, for ever. ``rows``: what the ledger has; an owner may have a
    dict of its own kept as this. ``apply``: told of each row that a follower learns, once it is in
    ``rows``, by an owner that knows it in another form. ``void_on_restart``: ``Client.restart``
    deletes the rows; otherwise they stay.
    """

    space: str
    rows: dict[K, V] = field(default_factory=dict)
    apply: Callable[[K, V | Deleted], None] | None = None
    lead: Callable[[], None] | None = None
    settle: Callable[[], None] | None = None
    void_on_restart: bool = False

    def set(self, key: K, value: V) -> Change:
        """Change the row here. What it returns is to be recorded in the same event-loop step."""
        self.rows[key] = value
        return Change(self.space, key, value)

    def delete(self, key: K) -> Change:
        """As ``set``, of a row that goes."""
        self.rows.pop(key, None)
        return Change(self.space, key, DELETED)

    def learn(self, key: K, value: V | Deleted) -> None:
        """A follower learns of the row."""
        if value is DELETED:
            self.delete(key)
        else:
            self.set(key, value)
        if self.apply is not None:
            self.apply(key, value)


T = TypeVar("T", bound=Table[Any, Any])


class ReplicatedTables:
    """The tables of one engine."""

    def __init__(self) -> None:
        self._tables: dict[str, Table[Any, Any]] = {}

    def __iter__(self) -> Iterator[Table[Any, Any]]:
        return iter(self._tables.values())

    def add(self, table: T) -> T:
        """Declare a table: from now on it is replicated."""
        assert table.space not in self._tables, table.space
        self._tables[table.space] = table
        return table

    def apply(self, space: str, name: bytes, value: bytes | None) -> None:
        """A follower learns of a row, or (None) that it is gone."""
        key = decode_key(name)
        self._tables[space].learn(key, DELETED if value is None else _read(space, key, value))

    def lead(self) -> None:
        """This engine is about to lead."""
        for table in self:
            if table.lead is not None:
                table.lead()

    def settle(self) -> None:
        """The workers' reports have been adopted."""
        for table in self:
            if table.settle is not None:
                table.settle()

    def void(self) -> list[Change]:
        """Everything starts anew: delete what is to go with it. Returns what is to be recorded."""
        gone = [table for table in self if table.void_on_restart]
        return [table.delete(key) for table in gone for key in list(table.rows)]


def _read(space: str, key: Any, value: bytes) -> Any:
    try:
        return loads(value)
    except Exception:  # the next engine would end of it as well
        logger.exception(
            "The value of %r in %s cannot be read here, and is lost if this peer leads; install on "
            "all peers what its client uses.",
            key,
            space,
            extra={"action": "value-unreadable"},
        )
        return DELETED
