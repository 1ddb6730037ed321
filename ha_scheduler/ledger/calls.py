"""Numbered calls: each takes effect at most once, and a repeated one gets the same answer.

A caller (one process) has a *session* with *slots*. A slot carries one call at a time, each with
the next number; the next call of a slot confirms the last answer. So one answer a slot is kept,
whatever the number of calls and however long some of them wait (thesis §6.3 keeps answers by
session and number; the slots are those of NFSv4.1, RFC 8881 §2.10.6).

Guarantee: the record of a call's changes holds its answer too, which is kept until the slot's next
call or the end of the session. A session is opened before its first call is sent, under a name that
is never used again. So an unknown session has ended: its caller is told that, and its calls are not
done twice.

Answers above ``LIGHT_BYTES_MAX`` may have ``HEAVY_BYTES_MAX`` together. Beyond that the oldest are
dropped, never the latest, and it is kept that they were given: a retry is told that the call was
done and the answer lost. Light answers are bounded by the number of slots.

Order: the leader asks ``Calls`` before it acts. The fold records and filters nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from ha_scheduler.ledger import blobs, indexes
from ha_scheduler.ledger.encoding import decode, encode
from ha_scheduler.ledger.layout import call_key, name_key, pack, unpack
from ha_scheduler.ledger.records import (
    INLINE_BYTES_MAX,
    AnswerDropped,
    Called,
    CallsEnded,
    CallsOpened,
    Record,
    Restarted,
    ValueDeleted,
    ValueSet,
)
from ha_scheduler.ledger.tables import CALL_SESSIONS, CALLS, Tables
from ha_scheduler.ledger.unfit import Reason, RejectedRecord, UnknownRecordError

LIGHT_BYTES_MAX = 4 * 1024  # bytes; to drop a smaller answer would not free much
HEAVY_BYTES_MAX = 256 * 1024 * 1024  # bytes of larger answers, in memory and ledger of each peer

_PAYLOAD = msgspec.msgpack.Decoder(tuple[tuple[bytes, ...], bytes])

Effect = ValueSet | ValueDeleted | Restarted  # what a call may change

DROPPED = b""  # in place of an answer that is no longer kept; no answer is as short


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a slot's latest call: the engine's bytes, or ``DROPPED``."""

    sequence: int
    data: bytes


@dataclass(slots=True)
class Calls:
    """Every session's answers in memory: the engine's copy of the fold's rows."""

    _slots: dict[str, dict[int, Answer]] = field(default_factory=dict)
    _owners: dict[str, str] = field(default_factory=dict)
    _owned: dict[str, dict[str, None]] = field(default_factory=dict)  # the inverse
    _subjects: dict[str, str] = field(default_factory=dict)
    _heavy: dict[tuple[str, int], int] = field(default_factory=dict)  # bytes; the oldest first
    heavy_bytes: int = 0

    def __contains__(self, session: str) -> bool:
        return session in self._slots

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._slots))

    def answer(self, session: str, slot: int) -> Answer | None:
        return self._slots.get(session, {}).get(slot)

    def owner(self, session: str) -> str:
        """Whose session it is; empty if it has ended."""
        return self._owners.get(session, "")

    def subject(self, session: str) -> str:
        """Whose token or certificate opened it; empty on plaintext."""
        return self._subjects.get(session, "")

    def owned_by(self, owner: str) -> list[str]:
        """The sessions of one owner."""
        return list(self._owned.get(owner, ()))

    def end(self, session: str) -> None:
        for slot in self._slots.pop(session, ()):
            self._weigh((session, slot), 0)
        self._own(session, None)
        self._subjects.pop(session, None)

    def called(self, record: Called, answer: bytes) -> None:
        slots = self._slots.get(record.session)
        if slots is not None:
            slots[record.slot] = Answer(record.sequence, answer)
            self._weigh((record.session, record.slot), len(answer))

    def excess(self, bytes_max: int = HEAVY_BYTES_MAX) -> Iterator[AnswerDropped]:
        """The answers to drop, the oldest first, until the rest fits."""
        left = self.heavy_bytes
        if left > bytes_max:
            for (session, slot), size in list(self._heavy.items())[:-1]:
                if left > bytes_max:
                    left -= size
                    yield AnswerDropped(session, slot)

    def _own(self, session: str, owner: str | None) -> None:
        former = self._owners.pop(session, None)
        if former is not None:
            del self._owned[former][session]
            if not self._owned[former]:
                del self._owned[former]
        if owner is not None:
            self._owners[session] = owner
            self._owned.setdefault(owner, {})[session] = None

    def _weigh(self, at: tuple[str, int], size: int) -> None:
        self.heavy_bytes -= self._heavy.pop(at, 0)
        if size > LIGHT_BYTES_MAX:
            self._heavy[at] = size
            self.heavy_bytes += size

    def apply(self, record: Record) -> None:
        """Apply ``record``; the payload of a ``Called`` must be in it."""
        match record:
            case CallsOpened(session, owner, subject):
                self._slots.setdefault(session, {})
                self._own(session, owner)
                self._subjects[session] = subject
            case CallsEnded(session):
                self.end(session)
            case Called():
                self.called(record, unpack_payload(record.payload)[1])
            case AnswerDropped(session, slot):
                if (kept := self.answer(session, slot)) is not None:
                    self._slots[session][slot] = Answer(kept.sequence, DROPPED)
                    self._weigh((session, slot), 0)
            case _:
                pass


def pack_payload(changes: tuple[bytes, ...], answer: bytes) -> bytes:
    """The payload of ``Called``: each ``Effect``, encoded, and the answer."""
    return pack((changes, answer))


def unpack_payload(payload: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """The changes and the answer of ``pack_payload``. Raises ``RejectedRecord``."""
    try:
        return _PAYLOAD.decode(payload)
    except (ValueError, OverflowError, RecursionError) as error:
        raise RejectedRecord(Reason.PAYLOAD_UNUSABLE, f"Called: payload: {error}") from error


def effects(payload: bytes) -> tuple[tuple[tuple[Effect, bytes], ...], bytes]:
    """As ``unpack_payload``, each change decoded, and as it was encoded.

    A kind that is not known here is none of a newer release: its ``FORMAT`` would be higher, and
    nothing of its term applied.
    """
    changes, answer = unpack_payload(payload)
    try:
        decoded = [(decode(change), change) for change in changes]
    except (UnknownRecordError, RejectedRecord) as error:
        raise RejectedRecord(Reason.PAYLOAD_UNUSABLE, f"Called: change: {error}") from error
    found = []
    for change, data in decoded:
        if not isinstance(change, Effect):
            why = f"Called: {type(change).__name__} is no change of a call"
            raise RejectedRecord(Reason.PAYLOAD_UNUSABLE, why)
        found.append((change, data))
    return tuple(found), answer


# The fold's side


def open_session(tables: Tables, session: str, owner: str, subject: str) -> None:
    key = name_key(session)
    indexes.delete(tables, CALL_SESSIONS, key)
    indexes.put(tables, CALL_SESSIONS, key, pack((session, owner, subject)))


def end_session(tables: Tables, session: str) -> None:
    """Drop the session and its answers."""
    _end_session(tables, name_key(session))


def end_owned(tables: Tables, owner: str) -> None:
    """End the sessions of an owner that is gone."""
    for session_key in indexes.owned_calls(tables, owner):
        _end_session(tables, session_key)


def _end_session(tables: Tables, session_key: bytes) -> None:
    if indexes.delete(tables, CALL_SESSIONS, session_key) is not None:
        for _, row in tables.scan(CALLS, session_key):
            _discard_blob(tables, row)
        tables.delete_prefix(CALLS, session_key)


def load_payload(tables: Tables, record: Called) -> bytes:
    """The payload, which may have travelled as parts."""
    if not record.blob_parts:
        return record.payload
    return b"".join(part.data for part in blobs.parts(tables, (record.term, record.blob)))


def keep(tables: Tables, index: int, record: Called, answer: bytes) -> None:
    """Keep the answer alone: the changes have rows of their own.

    ``index``: of the record in the log, because answers are dropped by age.
    """
    if record.blob_parts:
        blobs.claim(tables, (record.term, record.blob))
        blobs.discard(tables, (record.term, record.blob))
    if tables.get(CALL_SESSIONS, name_key(record.session)) is None:
        return
    key = call_key(record.session, record.slot)
    former = tables.get(CALLS, key)
    if former is not None:
        _discard_blob(tables, former)
    payload = pack_payload((), answer)
    if record.blob_parts and len(payload) > INLINE_BYTES_MAX:
        parts = blobs.put(tables, record.term, record.blob, payload)
        kept = replace(record, payload=b"", blob_parts=parts)
    else:
        kept = replace(record, payload=payload, blob=0, blob_parts=0)
    tables.put(CALLS, key, pack((index, encode(kept))))


def drop_answer(tables: Tables, session: str, slot: int) -> None:
    key = call_key(session, slot)
    row = tables.get(CALLS, key)
    if row is not None:
        _discard_blob(tables, row)
        index, record = _read(row)
        kept = replace(record, payload=pack_payload((), DROPPED), blob=0, blob_parts=0)
        tables.put(CALLS, key, pack((index, encode(kept))))


def scan(tables: Tables) -> Iterator[Record]:
    """Records that rebuild the sessions and answers, without blobs.

    Answers come by age, of which no two are alike: a record answers one call.
    """
    for _, row in tables.scan(CALL_SESSIONS):
        yield CallsOpened(*unpack(row))
    ages = sorted((unpack(row)[0], key) for key, row in tables.scan(CALLS))
    for _, key in ages:
        kept = tables.get(CALLS, key)
        assert kept is not None
        yield _read(kept)[1]


def _read(row: bytes) -> tuple[int, Called]:
    index, data = unpack(row)
    record = decode(data)
    assert isinstance(record, Called)
    return index, record


def _discard_blob(tables: Tables, row: bytes) -> None:
    _, record = _read(row)
    if record.blob_parts:
        blobs.discard(tables, (record.term, record.blob))
