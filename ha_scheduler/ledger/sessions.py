"""Answered requests of a session (thesis §6.3): each takes effect at most once.

Guarantee: after ``record(session, n)``, ``answered(session, n)`` is true until the session is
dropped, whatever else happens.

Order: the leader asks ``answered`` before it acts, and an engine leads only after it has seen every
record of earlier terms. So the fold records and never filters: a request may need several records,
all under its number.

A session is a floor (everything at or below it is answered) and the answered ranges above it.
Requests are numbered from 1 and mostly answered in order, so it is mostly a floor alone. A hole is
a request in progress. Beyond ``RANGES_MAX - 1`` holes the lowest is closed as answered: requests
come in order on one stream, so one that was overtaken by a thousand others was refused (its graph
would not unpickle, say), which leaves no record.

Only the client's present session is recorded: a request whose client has left would revive a
session that nobody ends.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ha_scheduler.ledger import calls, indexes
from ha_scheduler.ledger.calls import Calls
from ha_scheduler.ledger.layout import name_key, pack, unpack
from ha_scheduler.ledger.records import (
    RANGES_MAX,
    Answered,
    ClientJoined,
    ClientLeft,
    GraphSubmitted,
    Record,
    SessionAdvanced,
    SessionRestored,
)
from ha_scheduler.ledger.tables import CLIENTS, SESSIONS, Tables

UNNUMBERED = 0  # the sequence of a request whose client keeps no journal


@dataclass(frozen=True, slots=True)
class Answers:
    """The answered numbers of one session.

    ``bounds``: first, last, first, last, … of the ranges above ``floor``, inclusive and rising; no
    two touch each other or the floor. So equal sets of numbers are equal ``Answers``.
    """

    floor: int = 0
    bounds: tuple[int, ...] = ()

    def answered(self, sequence: int) -> bool:
        """Whether the request was answered; ``UNNUMBERED`` never is."""
        if sequence == UNNUMBERED:
            return False
        if sequence <= self.floor:
            return True
        at = bisect_right(self.bounds, sequence)
        # An odd position lies inside a range; an even one may still be the last of the one before.
        return at % 2 == 1 or (at > 0 and self.bounds[at - 1] == sequence)

    @property
    def last(self) -> int:
        """The highest answered number; 0 for none."""
        return self.bounds[-1] if self.bounds else self.floor

    def record(self, sequence: int) -> Answers:
        if sequence == UNNUMBERED or self.answered(sequence):
            return self
        bounds = self._with(sequence)
        if len(bounds) > 2 * RANGES_MAX:
            return _normal(bounds[1], bounds[2:])
        return _normal(self.floor, bounds)

    def advance(self, floor: int) -> Answers:
        """With everything up to ``floor`` answered. A floor never sinks."""
        if floor <= self.floor:
            return self
        at = bisect_right(self.bounds, floor)
        if at % 2 == 1:
            return _normal(self.bounds[at], self.bounds[at + 1 :])
        return _normal(floor, self.bounds[at:])

    def _with(self, sequence: int) -> tuple[int, ...]:
        if sequence == UNNUMBERED or self.answered(sequence):
            return self.bounds
        at = bisect_right(self.bounds, sequence)
        before, after = self.bounds[:at], self.bounds[at:]
        first = last = sequence
        if before and before[-1] == sequence - 1:
            first, before = before[-2], before[:-2]
        if after and after[0] == sequence + 1:
            last, after = after[1], after[2:]
        return (*before, first, last, *after)


def _normal(floor: int, bounds: tuple[int, ...]) -> Answers:
    """A range that touches the floor becomes part of it."""
    while bounds and bounds[0] <= floor + 1:
        floor, bounds = max(floor, bounds[1]), bounds[2:]
    return Answers(floor, bounds)


@dataclass(slots=True)
class Sessions:
    """Every session in memory: the engine's copy of the fold's rows.

    ``calls``: the answers to numbered calls, of clients and workers.
    """

    _answers: dict[str, Answers] = field(default_factory=dict)
    _clients: dict[str, str] = field(default_factory=dict)
    _named: Counter[str] = field(default_factory=Counter)  # clients of a session
    calls: Calls = field(default_factory=Calls)

    def answered(self, session: str, sequence: int) -> bool:
        """Whether the request was answered: do not act, answer again."""
        return self._answers.get(session, Answers()).answered(sequence)

    def last(self, session: str) -> int:
        return self._answers.get(session, Answers()).last

    def record(self, session: str, sequence: int) -> None:
        if session and sequence != UNNUMBERED:
            self._answers[session] = self._answers.get(session, Answers()).record(sequence)

    def advance(self, session: str, floor: int) -> None:
        if session:
            self._answers[session] = self._answers.get(session, Answers()).advance(floor)

    def drop(self, session: str) -> None:
        """The session is over: its numbers mean nothing any more."""
        self._answers.pop(session, None)
        for owned in self.calls.owned_by(session):
            self.calls.end(owned)

    def apply(self, record: Record) -> None:
        """Apply ``record`` exactly as the fold does."""
        match record:
            case GraphSubmitted(client=client, session=session, sequence=sequence):
                self._record_of(client, session, (sequence,))
            case Answered(client=client, session=session, sequences=sequences):
                self._record_of(client, session, sequences)
            case SessionAdvanced(session=session, floor=floor):
                self.advance(session, floor)
            case SessionRestored(session=session, floor=floor, answered=bounds):
                self._answers[session] = Answers(floor, bounds)
            case ClientJoined(client=client, session=session):
                self._join(client, session)
            case ClientLeft(client=client):
                self._join(client, "")
                del self._clients[client]
            case _:
                self.calls.apply(record)

    def _record_of(self, client: str, session: str, sequences: Iterable[int]) -> None:
        if self._clients.get(client) == session:
            for sequence in sequences:
                self.record(session, sequence)

    def _join(self, client: str, session: str) -> None:
        former = self._clients.get(client, "")
        self._clients[client] = session
        if session:
            self._named[session] += 1
        if former:
            self._named[former] -= 1
            if not self._named[former]:
                del self._named[former]
                self.drop(former)


def load_answers(tables: Tables, session: str) -> Answers:
    row = tables.get(SESSIONS, name_key(session))
    if row is None:
        return Answers()
    _, floor, bounds = unpack(row)
    return Answers(floor, bounds)


def store_answers(tables: Tables, session: str, answers: Answers) -> None:
    """Keep a session in the ledger; the empty name stands for none."""
    if session:
        row = pack((session, answers.floor, answers.bounds))
        tables.put(SESSIONS, name_key(session), row)


def answer_of(tables: Tables, client: str, session: str, sequences: Iterable[int]) -> None:
    """Requests of a client are answered, if this is its session."""
    row = tables.get(CLIENTS, name_key(client))
    if session and row is not None and unpack(row)[2] == session:
        former = answers = load_answers(tables, session)
        for sequence in sequences:
            answers = answers.record(sequence)
        if answers != former:
            store_answers(tables, session, answers)


def scan_answers(tables: Tables) -> Iterator[tuple[str, Answers]]:
    for _, row in tables.scan(SESSIONS):
        session, floor, bounds = unpack(row)
        yield session, Answers(floor, bounds)


def drop_if_unused(tables: Tables, session: str) -> None:
    """Drop a session that no client of the ledger names.

    Another process may resume a journal under another client id: the first one's end must not take
    the answers.
    """
    if not indexes.is_named(tables, session):
        tables.delete(SESSIONS, name_key(session))
        calls.end_owned(tables, session)
