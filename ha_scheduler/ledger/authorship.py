"""Who may write which record.

Guarantee: an engine, which runs the code of users, gets no record into the log that is not its to
write: not who belongs to the cell, not the begin of a term, not what only a rebuild says, and
nothing in the name of another term.

Order: judged before the record is proposed, since what has committed is applied whoever wrote it.
"""

from __future__ import annotations

from enum import Enum
from typing import get_args

from ha_scheduler.ledger.records import (
    AnswerDropped,
    Answered,
    BlobPart,
    Called,
    CallsEnded,
    CallsOpened,
    CaseReleased,
    CaseRestored,
    CellFounded,
    ClientJoined,
    ClientLeft,
    Desired,
    EngineEnded,
    Erred,
    Forgotten,
    GraphsRetired,
    GraphSubmitted,
    MaintenanceSet,
    PeerNamed,
    Record,
    RecordRejected,
    Released,
    Restarted,
    Retried,
    Scattered,
    ScatteredForgotten,
    SessionAdvanced,
    SessionRestored,
    SigningKeyAdded,
    SigningKeyRetired,
    TermStarted,
    TokenIssued,
    TokenRevoked,
    ValueDeleted,
    ValueSet,
)


class Author(Enum):
    """Whose a record is."""

    DAEMON = "a daemon"
    ENGINE = "the engine of a leader"
    REBUILD = "a rebuild"  # it is in no log


AUTHORS: dict[type[Record], Author] = {
    TermStarted: Author.DAEMON,
    PeerNamed: Author.DAEMON,
    EngineEnded: Author.DAEMON,
    CaseReleased: Author.DAEMON,
    CellFounded: Author.DAEMON,
    SigningKeyAdded: Author.DAEMON,
    SigningKeyRetired: Author.DAEMON,
    TokenIssued: Author.DAEMON,
    TokenRevoked: Author.DAEMON,
    MaintenanceSet: Author.DAEMON,
    SessionRestored: Author.REBUILD,
    RecordRejected: Author.REBUILD,
    CaseRestored: Author.REBUILD,
    BlobPart: Author.ENGINE,
    GraphSubmitted: Author.ENGINE,
    GraphsRetired: Author.ENGINE,
    Desired: Author.ENGINE,
    Released: Author.ENGINE,
    Forgotten: Author.ENGINE,
    Erred: Author.ENGINE,
    Retried: Author.ENGINE,
    Scattered: Author.ENGINE,
    ScatteredForgotten: Author.ENGINE,
    ClientJoined: Author.ENGINE,
    ClientLeft: Author.ENGINE,
    SessionAdvanced: Author.ENGINE,
    ValueSet: Author.ENGINE,
    ValueDeleted: Author.ENGINE,
    Restarted: Author.ENGINE,
    Called: Author.ENGINE,
    CallsOpened: Author.ENGINE,
    CallsEnded: Author.ENGINE,
    AnswerDropped: Author.ENGINE,
    Answered: Author.ENGINE,
}
assert set(AUTHORS) == set(get_args(Record))  # a record without an author would be anybody's


class NotItsRecordError(Exception):
    """Engine: a record of another author."""


def check_engine(record: Record, changes: tuple[Record, ...], term: int) -> None:
    """Whether the engine of the leader of ``term`` may write ``record``.

    ``changes``: those of a ``Called``, as far as they are in it. Raises ``NotItsRecordError``.
    """
    kind = type(record)
    if AUTHORS[kind] is not Author.ENGINE:
        raise NotItsRecordError(f"a {kind.__name__} is {AUTHORS[kind].value}'s to write")
    for part in (record, *changes):
        named = _term_of(part)
        if named not in (None, term):
            raise NotItsRecordError(
                f"a {type(part).__name__} of term {named} is not term {term}'s to write"
            )


def _term_of(record: Record) -> int | None:
    """The term whose blobs or ids the record names, if any."""
    match record:
        case BlobPart():
            return record.term
        case GraphSubmitted():
            return record.graph >> 32
        case ValueSet() | Called() if record.blob_parts:
            return record.term
        case _:
            return None
