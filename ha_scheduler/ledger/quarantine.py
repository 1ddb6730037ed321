"""The quarantine: which contents may not be read or run again, because engines ended of them. Pure.

Guarantee: a content is *set aside* when at least ``DEATHS_TO_SET_ASIDE`` engines ended while it was
open, and with at least one of them nothing else was. So nothing is set aside for what another did.
A content that is open at any death is a *suspect*: engines try it alone from then on
(``engine/exposures.py``), and the next death, if there is one, says whose fault it is.

What counts as a death is the daemon's decision (``peer/engine/inquest.py``): an engine that was
killed from outside, or by its own daemon, tells nothing of what it had open.

A *case* is what is known of one content. Cases are bounded: beyond ``CASES_MAX`` the oldest suspect
goes, and if there is none, the content that was set aside longest ago.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ha_scheduler.ledger.encoding import decode, encode
from ha_scheduler.ledger.layout import pack, unpack
from ha_scheduler.ledger.records import (
    DEATHS_MAX,
    CaseReleased,
    CaseRestored,
    Death,
    EngineEnded,
    Record,
)
from ha_scheduler.ledger.tables import QUARANTINE, Tables
from ha_scheduler.protocol.engine import Exposure

DEATHS_TO_SET_ASIDE = 2  # one is an accident; each costs all clients a change of leader
CASES_MAX = 256


@dataclass(frozen=True, slots=True)
class Case:
    """One content, and the engines that ended while it was open, oldest first."""

    exposure: Exposure
    deaths: tuple[Death, ...] = ()

    @property
    def set_aside(self) -> bool:
        alone = any(death.alone for death in self.deaths)
        return alone and len(self.deaths) >= DEATHS_TO_SET_ASIDE

    @property
    def reason(self) -> str:
        """What ended the engines, for people: ``SIGSEGV on a (term 3), SIGSEGV on b (term 4)``."""
        return ", ".join(f"{d.cause} on {d.peer} (term {d.term})" for d in self.deaths)

    def with_death(self, record: EngineEnded) -> Case:
        """The case after that death. One that is known already changes nothing."""
        if any(death.id == record.id for death in self.deaths):
            return self
        death = Death(
            record.id, record.peer, record.term, record.led, record.cause, record.at,
            alone=len(record.open) == 1,
        )  # fmt: skip
        return Case(self.exposure, (*self.deaths, death)[-DEATHS_MAX:])


def _excess(cases: Iterable[tuple[bytes, Case]]) -> list[bytes]:
    """The contents to forget; ``cases`` are in the order of their latest deaths.

    Never the latest: it would have to end two engines at once to be set aside.
    """
    *older, _ = cases
    aside = [content for content, case in older if case.set_aside]
    suspects = [content for content, case in older if not case.set_aside]
    return [*suspects, *aside][: max(0, len(older) + 1 - CASES_MAX)]


@dataclass(slots=True)
class Cases:
    """Every case in memory: an engine's copy of the fold's rows."""

    _cases: dict[bytes, Case] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Case]:
        return iter(self._cases.values())

    def get(self, content: bytes) -> Case | None:
        return self._cases.get(content)

    def apply(self, record: Record) -> None:
        """Apply ``record`` exactly as the fold does; others change nothing."""
        match record:
            case EngineEnded():
                for exposure in record.open:
                    former = self._cases.get(exposure.content, Case(exposure))
                    self._put(former.with_death(record))
            case CaseRestored(exposure, deaths):
                self._put(Case(exposure, deaths))
            case CaseReleased(content):
                self._cases.pop(content, None)

    def _put(self, case: Case) -> None:
        content = case.exposure.content
        self._cases.pop(content, None)  # to the end
        self._cases[content] = case
        for gone in _excess(self._cases.items()):
            del self._cases[gone]


# -- the fold's rows: content → (index, place in its record, CaseRestored)


def engine_ended(tables: Tables, index: int, record: EngineEnded) -> None:
    for place, exposure in enumerate(record.open):
        former = get(tables, exposure.content) or Case(exposure)
        _store(tables, index, place, former.with_death(record))


def restored(tables: Tables, index: int, record: CaseRestored) -> None:
    _store(tables, index, 0, Case(record.exposure, record.deaths))


def released(tables: Tables, record: CaseReleased) -> None:
    tables.delete(QUARANTINE, record.content)


def get(tables: Tables, content: bytes) -> Case | None:
    row = tables.get(QUARANTINE, content)
    return None if row is None else _case(unpack(row)[2])


def scan(tables: Tables) -> Iterator[Case]:
    """Every case, in the order of their latest deaths."""
    rows = sorted(unpack(row) for _, row in tables.scan(QUARANTINE))
    yield from (_case(data) for _, _, data in rows)


def _store(tables: Tables, index: int, place: int, case: Case) -> None:
    data = encode(CaseRestored(case.exposure, case.deaths))
    tables.put(QUARANTINE, case.exposure.content, pack((index, place, data)))
    for gone in _excess((known.exposure.content, known) for known in scan(tables)):
        tables.delete(QUARANTINE, gone)


def _case(data: bytes) -> Case:
    record = decode(data)
    assert isinstance(record, CaseRestored)
    return Case(record.exposure, record.deaths)
