"""Replicated tables: facts that every later leader knows as this one does.

Guarantee: an owner declares a ``Table`` once, in its own module, and adds it to
``ReplicatedTables``. From then on each row that a leader writes (``transactions.py``) is on every
follower that has applied the record, on an engine rebuilt from the ledger, and on every later
leader, until it is deleted. A row that cannot be read here (a module is missing) counts as deleted;
the engine goes on. A row of an unknown table is refused: it is a newer release's, whose ``FORMAT``
is higher, so the daemon has stopped before it.

Order: ``apply`` runs for each row as it commits, in a rebuild before the graphs; ``lead`` before
the engine's port is bound; ``settle`` when the workers' reports are adopted, before anybody but a
worker is answered. Hooks of one kind run in the order of ``add``; none relies on it.

What the ledger has to understand is a record of its own (``ledger/records.py``), not a table: what
it orders or ends together (graphs, desires, releases, errors, retries, scattered keys, a restart),
what it answers by (clients, sessions, numbered calls), and what daemons read (terms, peers, blob
parts). Rows of tables it only keeps, by space and name.

``docs/how-to/add-a-replicated-table.md`` adds one step by step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from distributed.protocol.pickle import dumps

from ha_scheduler.engine.exposures import Exposures
from ha_scheduler.engine.stream.keys import decode_key, encode_name
from ha_scheduler.ledger.records import BLOB_PART_BYTES, CALL_PARTS_MAX, FORMAT
from ha_scheduler.ledger.unfit import UnknownRecordError
from ha_scheduler.protocol.codec import shown

VALUE_BYTES_MAX = CALL_PARTS_MAX * BLOB_PART_BYTES // 2  # the call that set it has an answer, too

logger = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")


class Deleted(Enum):
    DELETED = "deleted"


DELETED: Final = Deleted.DELETED  # in place of the value of a row that is gone


@dataclass(frozen=True, slots=True)
class Change:
    """A row to be recorded, encoded: its new value, or None if it is gone."""

    space: str
    name: bytes
    data: bytes | None


@dataclass(eq=False, slots=True)
class Table(Generic[K, V]):
    """The declaration of one table.

    ``space``: its name in the ledger, for ever. ``rows``: what the ledger has, perhaps a dict of
    the owner's. ``apply``: called on a follower after each change of ``rows``, for an owner with
    another form of them. ``void_on_restart``: ``Client.restart`` deletes the rows. ``of_tasks``: a
    row is named by a task's key, and deleted when that is forgotten.
    """

    space: str
    rows: dict[K, V] = field(default_factory=dict)
    apply: Callable[[K, V | Deleted], None] | None = None
    lead: Callable[[], None] | None = None
    settle: Callable[[], None] | None = None
    void_on_restart: bool = False
    of_tasks: bool = False

    def set(self, key: K, value: V) -> Change:
        """Change the row; the returned ``Change`` is recorded in the same event-loop step.

        Raises ``ValueError``, or what pickle raises, before the row is changed.
        """
        change = Change(self.space, encode_name(key), _encode(key, value))
        self.rows[key] = value
        return change

    def delete(self, key: K) -> Change:
        """As ``set``, for a deletion."""
        change = Change(self.space, encode_name(key), None)
        self.rows.pop(key, None)
        return change

    def learn(self, key: K, value: V | Deleted) -> None:
        if value is DELETED:
            self.rows.pop(key, None)
        else:
            self.rows[key] = value
        if self.apply is not None:
            self.apply(key, value)


T = TypeVar("T", bound=Table[Any, Any])


class ReplicatedTables:
    def __init__(self, exposures: Exposures) -> None:
        self._exposures = exposures
        self._tables: dict[str, Table[Any, Any]] = {}
        self._of_tasks: list[Table[Any, Any]] = []

    def __iter__(self) -> Iterator[Table[Any, Any]]:
        return iter(self._tables.values())

    def add(self, table: T) -> T:
        assert table.space not in self._tables, table.space
        self._tables[table.space] = table
        if table.of_tasks:
            self._of_tasks.append(table)
        return table

    def apply(self, space: str, name: bytes, value: bytes | None) -> None:
        """A follower applies a row; None deletes it. Raises ``UnknownRecordError``."""
        table = self._tables.get(space)
        if table is None:
            raise UnknownRecordError(
                f"the replicated table {space!r} is of a newer release than this one "
                f"(format {FORMAT}); upgrade this peer"
            )
        key = decode_key(name)
        table.learn(key, DELETED if value is None else self._read(space, key, value))

    def _read(self, space: str, key: Any, value: bytes) -> Any:
        try:
            return self._exposures.read(f"value in {space}", key, value)
        except Exception:  # the next engine would end of it as well
            logger.exception(
                "The value of %r in %s cannot be read here, and is lost if this peer leads; "
                "install on all peers what its client uses.",
                key,
                space,
                extra={"action": "value_unreadable"},
            )
            return DELETED

    def lead(self) -> None:
        for table in self:
            if table.lead is not None:
                table.lead()

    def settle(self) -> None:
        for table in self:
            if table.settle is not None:
                table.settle()

    def forget_task(self, key: Any) -> list[Change]:
        """A leader forgets a task: delete its rows, and return the changes to record."""
        return [table.delete(key) for table in self._of_tasks if key in table.rows]

    def void(self) -> list[Change]:
        """``Client.restart``: delete the rows that go with it, and return the changes to record."""
        gone = [table for table in self if table.void_on_restart]
        return [table.delete(key) for table in gone for key in list(table.rows)]


def _encode(key: Any, value: Any) -> bytes:
    data = bytes(dumps(value))
    if len(data) > VALUE_BYTES_MAX:
        raise ValueError(
            f"the value of {shown(key)} has {len(data)} bytes where {VALUE_BYTES_MAX} are allowed; "
            f"keep large data on workers, and a future of it here"
        )
    return data
