"""How a record becomes bytes, and bytes a record or a refusal.

Guarantee: ``decode(encode(record)) == record`` for every record of this release. What a newer
release has written is refused as such (``UnknownRecordError``): a record or a field that this
release does not know, or all that follows the ``TermStarted`` of a leader whose ``FORMAT`` is
higher. Other bytes are no record of any release, and rejected (``RejectedRecord``).

The first two bytes of a record tell its kind, so whoever looks for one kind among all that has
committed need not decode the others.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ha_scheduler.ledger.records import (
    ADDED,
    FORMAT,
    KINDS,
    RECORD_BYTES_MAX,
    SINCE,
    CellFounded,
    EngineEnded,
    MaintenanceSet,
    PeerNamed,
    Record,
    RecordRejected,
    SigningKeyAdded,
    SigningKeyRetired,
    TermStarted,
    TokenIssued,
    TokenRevoked,
)
from ha_scheduler.ledger.unfit import (
    MalformedRecordError,
    Reason,
    RejectedRecord,
    UnknownRecordError,
)

_DECODER = msgspec.msgpack.Decoder(Record)
_ENGINE_ENDED = msgspec.msgpack.encode(EngineEnded(1, "", 0, False, "", 0, ()))[:2]  # array, kind
_PEER_NAMED = msgspec.msgpack.encode(PeerNamed(1, 0, "", "", 0, 0, False, ""))[:2]  # array, kind
_CELL_FOUNDED = msgspec.msgpack.encode(CellFounded("0" * 32, "", ""))[:2]
_MAINTENANCE = msgspec.msgpack.encode(MaintenanceSet("", False, 0, "", 0))[:2]
_REJECTED = msgspec.msgpack.encode(RecordRejected(1, 0, 0, 0, 0, b"", ""))[:2]
_OF_MEMBERS = (_PEER_NAMED, _CELL_FOUNDED, _MAINTENANCE)
_OF_TOKENS = frozenset(
    msgspec.msgpack.encode(record)[:2]
    for record in (
        SigningKeyAdded(b"", "", 0),
        SigningKeyRetired(b""),
        TokenIssued(b"", "", "", 0, 0, "", ""),
        TokenRevoked(b"", 0, 0, ""),
    )
)


class TooNewError(Exception):
    """Engine or daemon: not all members of the cell read this yet; what writes it is to ask first.

    See ``records.SINCE`` and ``records.ADDED``.
    """


def encode(record: Record, format_: int = FORMAT) -> bytes:
    """One record as bytes: a msgpack array of its kind and fields in declaration order.

    ``format_``: of the cell. Raises ``TooNewError`` for what has no meaning in it.
    """
    if format_ < FORMAT:
        return _encode_in(record, format_)
    return msgspec.msgpack.encode(record)


def _encode_in(record: Record, format_: int) -> bytes:
    kind = type(record)
    if SINCE.get(kind, 0) > format_:
        raise TooNewError(f"{kind.__name__} came with format {SINCE[kind]}, the cell has {format_}")
    unread = sum(since > format_ for since in ADDED.get(kind, ()))
    data = msgspec.msgpack.encode(record)
    if not unread:
        return data
    fields = msgspec.structs.fields(kind)[-unread:]
    if any(getattr(record, field.name) != field.default for field in fields):
        raise TooNewError(f"a field of {kind.__name__} is newer than format {format_} of the cell")
    return msgspec.msgpack.encode(msgspec.msgpack.decode(data, type=list[msgspec.Raw])[:-unread])


def peer_named(data: bytes) -> PeerNamed | None:
    """The record, if it is a ``PeerNamed`` that can be applied."""
    record = _applicable(data) if data[:2] == _PEER_NAMED else None
    return record if isinstance(record, PeerNamed) else None


def cell_founded(data: bytes) -> CellFounded | None:
    """The record, if it is a ``CellFounded`` that can be applied."""
    record = _applicable(data) if data[:2] == _CELL_FOUNDED else None
    return record if isinstance(record, CellFounded) else None


def maintenance_set(data: bytes) -> MaintenanceSet | None:
    """The record, if it is a ``MaintenanceSet`` that can be applied."""
    record = _applicable(data) if data[:2] == _MAINTENANCE else None
    return record if isinstance(record, MaintenanceSet) else None


def _applicable(data: bytes) -> Record | None:
    try:
        return decode(data)
    except RejectedRecord:
        return None


def is_for_daemons(data: bytes) -> bool:
    """Whether the record concerns no engine."""
    return data[:2] in (_REJECTED, *_OF_MEMBERS) or is_of_tokens(data)


def is_of_members(data: bytes) -> bool:
    """Whether the record says which cell this is, who belongs to it, who may lead, or whose tokens
    hold.

    A witness keeps these.
    """
    return data[:2] in _OF_MEMBERS or is_of_tokens(data)


def is_of_tokens(data: bytes) -> bool:
    """Whether the record may change whose tokens hold."""
    return data[:2] in _OF_TOKENS


def kind_of(data: bytes) -> int:
    """The kind of an encoded record, or 0 if this release has none such; not whether it is one."""
    try:
        kind = msgspec.msgpack.decode(data, type=list[msgspec.Raw])[0]
        tag = msgspec.msgpack.decode(kind, type=int)
    except (ValueError, OverflowError, RecursionError, IndexError):
        return 0
    return tag if tag in KINDS else 0


def engine_ended(data: bytes) -> EngineEnded | None:
    """The record, if it is an ``EngineEnded`` that can be applied; cheap to ask of each record."""
    if data[:2] != _ENGINE_ENDED:
        return None
    try:
        record = decode(data)
    except (UnknownRecordError, RejectedRecord):
        return None
    return record if isinstance(record, EngineEnded) else None


def decode(data: bytes) -> Record:
    """The record of ``encode``.

    Raises ``UnknownRecordError`` for what a newer release wrote, ``RejectedRecord`` for bytes that
    are no record, or more than a record may have.
    """
    if len(data) > RECORD_BYTES_MAX:
        raise RejectedRecord(
            Reason.TOO_LARGE, f"a record of {len(data)} bytes, where {RECORD_BYTES_MAX} are allowed"
        )
    try:
        record: Record = _DECODER.decode(data)
    except (ValueError, OverflowError, RecursionError) as error:
        raise _refusal(data, error) from error
    return record


def _refusal(data: bytes, error: Exception) -> UnknownRecordError | MalformedRecordError:
    try:
        kind, *fields = msgspec.msgpack.decode(data, type=list[Any])
    except (ValueError, OverflowError, RecursionError):
        return MalformedRecordError(f"not a record of the event stream: {error}")
    cls = KINDS.get(kind) if type(kind) is int else None
    newer = f"was written by a newer release than this one (format {FORMAT}); upgrade this peer"
    if cls is None:
        return UnknownRecordError(f"record kind {kind!r} {newer}")
    if len(fields) > len(cls.__struct_fields__):
        return UnknownRecordError(f"{cls.__name__} with {len(fields)} fields {newer}")
    if cls is TermStarted and len(fields) > 2 and type(fields[2]) is int and fields[2] > FORMAT:
        return UnknownRecordError(f"all of term {fields[0]}, of format {fields[2]}, {newer}")
    return MalformedRecordError(f"{cls.__name__}: {error}")
