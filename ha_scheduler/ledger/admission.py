"""Admission: whether a committed record can be applied to the ledger as it is.

Guarantee: ``admit`` is a pure function of the record and the tables, and writes nothing. So a
record that is rejected leaves nothing behind, and is rejected by every peer; what is admitted can
be applied, whatever its author meant by it: no rule of the fold raises for it.

What a field may hold is decided by its annotation (``records``). Here is what depends on other
records: a graph is submitted once, parts of a blob come in order, and a record that names a blob
finds all of it. A record about a graph that is not there is no such case; the fold passes over it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ha_scheduler.ledger import blobs, calls
from ha_scheduler.ledger.blobs import Blob
from ha_scheduler.ledger.encoding import decode
from ha_scheduler.ledger.layout import graph_key
from ha_scheduler.ledger.records import BlobPart, Called, GraphSubmitted, Record, ValueSet
from ha_scheduler.ledger.tables import GRAPHS, Tables
from ha_scheduler.ledger.unfit import Reason, RejectedRecord, UnknownRecordError


class Admitted(NamedTuple):
    """A record that can be applied; of a ``Called``, with its changes and its answer."""

    record: Record
    changes: tuple[tuple[calls.Effect, bytes], ...] = ()
    answer: bytes = b""


def admit(tables: Tables, data: bytes) -> Admitted:
    """The record, if it can be applied. Raises ``RejectedRecord`` and ``UnknownRecordError``."""
    record = decode(data)
    judge = _JUDGES.get(type(record))
    return Admitted(record) if judge is None else judge(tables, record)


def is_certain(data: bytes) -> bool:
    """Whether the record is admitted whatever the tables hold: it may be told before the fold."""
    try:
        record, changes = check(data)
    except (RejectedRecord, UnknownRecordError):
        return False
    return not any(map(_depends, (record, *changes)))


def _depends(record: Record) -> bool:
    """Whether what the ledger holds decides; of a ``Called``, beside its changes."""
    if isinstance(record, ValueSet | Called):
        return record.blob_parts > 0
    return type(record) in _JUDGES


def check(data: bytes) -> tuple[Record, tuple[Record, ...]]:
    """What is to enter the log, as far as it can be judged without the tables.

    Returns the record, and the changes of a ``Called`` as far as they are in it. Raises
    ``RejectedRecord`` and ``UnknownRecordError``.
    """
    record = decode(data)
    if not isinstance(record, Called) or record.blob_parts:
        return record, ()
    return record, tuple(change for change, _ in calls.effects(record.payload)[0])


def graph_blob(record: GraphSubmitted) -> Blob | None:
    """The blob of a graph's payload that travelled as parts."""
    return (record.graph >> 32, record.blob) if record.blob_parts else None


def term_blob(record: ValueSet | Called) -> Blob | None:
    """The blob of a value, or of a call's payload, that travelled as parts."""
    return (record.term, record.blob) if record.blob_parts else None


def _judge_part(tables: Tables, record: BlobPart) -> Admitted:
    if not blobs.is_next(tables, record):
        raise RejectedRecord(Reason.PART_MISPLACED, f"part {record.number} is not the next")
    return Admitted(record)


def _judge_graph(tables: Tables, record: GraphSubmitted) -> Admitted:
    _check_owned(tables, (graph_blob(record), record.blob_parts))
    if tables.get(GRAPHS, graph_key(record.graph)) is not None:
        raise RejectedRecord(Reason.GRAPH_KNOWN, f"graph {record.graph:#x} is known")
    return Admitted(record)


def _judge_value(tables: Tables, record: ValueSet) -> Admitted:
    _check_owned(tables, (term_blob(record), record.blob_parts))
    return Admitted(record)


def _judge_call(tables: Tables, record: Called) -> Admitted:
    own = term_blob(record), record.blob_parts
    _check_owned(tables, own)
    changes, answer = calls.effects(calls.load_payload(tables, record))
    values = [change for change, _ in changes if isinstance(change, ValueSet)]
    _check_owned(tables, own, *((term_blob(value), value.blob_parts) for value in values))
    return Admitted(record, changes, answer)


def _check_owned(tables: Tables, *named: tuple[Blob | None, int]) -> None:
    """The blobs are there, whole, nobody's, and each is named once."""
    seen: set[Blob | None] = set()
    for blob, parts in named:
        if blob is None:
            continue
        if blob in seen or blobs.loose_parts(tables, blob) != parts:
            raise RejectedRecord(
                Reason.BLOB_INCOMPLETE, f"blob {blob[1]} of term {blob[0]} is not there as a whole"
            )
        seen.add(blob)


#: The records that may be unfit for what the ledger holds; all others are admitted.
_JUDGES: dict[type[Any], Callable[[Tables, Any], Admitted]] = {
    BlobPart: _judge_part,
    GraphSubmitted: _judge_graph,
    ValueSet: _judge_value,
    Called: _judge_call,
}
