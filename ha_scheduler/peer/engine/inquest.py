"""The inquest into an engine's end: whether what it had open is to blame. Pure.

Guarantee: only an end that the engine brought about by itself counts: a fault (SIGSEGV and the
like), an exit, a signal that it sent itself, a hang, or the kernel's kill for want of memory. What
comes from outside never does: the end of the daemon, its own decisions (leadership lost, a stop, a
snapshot), a SIGKILL, SIGTERM or SIGINT by anybody, however often.

SIGKILL tells nothing of its sender. It counts as the kernel's if its count of kills for want of
memory has moved since the last look, at most ``watchdog.EVERY_S`` before.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ha_scheduler.ledger.quarantine import Case
from ha_scheduler.ledger.records import OPEN_MAX, EngineEnded
from ha_scheduler.protocol.control import CaseDeath, QuarantinedCase
from ha_scheduler.protocol.engine import Exposure

UNTOLD_MAX = 16  # ends that the cell has not in its log yet, of one peer
PROPOSED_MAX = 256  # ends, of all peers, that are remembered as proposed
SENTENCE_CHARS = 256  # ``Name``

#: Raised by the kernel or by a library in its own process; a person sends others.
_FAULTS = frozenset(
    {
        *(signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT),
        *(signal.SIGSYS, signal.SIGTRAP, signal.SIGXCPU, signal.SIGXFSZ),
    }
)


class How(enum.Enum):
    """How the daemon came to know of the end."""

    BY_ITSELF = "by itself"  # its channel or its process ended
    HUNG = "hung"  # the watchdog ended it
    BY_DAEMON = "by its daemon"  # for a reason that no client has given


@dataclass(frozen=True, slots=True)
class End:
    """An engine's end, as its daemon saw it.

    ``status``: as of ``subprocess``, negative for a signal. ``own_signal``: the last one that it
    said to send itself. ``oom_kills``: how far the kernel's count has moved about then.
    """

    how: How
    status: int
    why: str = ""
    own_signal: int = 0
    oom_kills: int = 0


def cause(end: End) -> str:
    """What the engine ended of, for people; empty if what was open is not to blame."""
    if end.how is How.BY_DAEMON:
        return ""
    if end.how is How.HUNG:
        return end.why[:SENTENCE_CHARS]
    if end.status >= 0:
        return f"exit status {end.status}"
    number = -end.status
    if number == signal.SIGKILL and end.oom_kills > 0:
        return "out of memory (SIGKILL by the kernel)"
    if number in _FAULTS or number == end.own_signal:
        return _name(number)
    return ""


def finding(
    end: End,
    exposures: Sequence[Exposure],
    *,
    number: int,
    peer: str,
    term: int,
    led: bool,
    at: int,
) -> EngineEnded | None:
    """The record of an end that counts, or None."""
    why = cause(end)
    if not why or not exposures:
        return None
    return EngineEnded(number, peer, term, led, why, at, tuple(exposures[:OPEN_MAX]))


class Untold:
    """Ends of engines that are not in the log yet: of this peer, and as others tell."""

    def __init__(self) -> None:
        self._records: dict[int, EngineEnded] = {}
        self._proposed: dict[int, int] = {}  # id → the term in which this peer proposed it

    def add(self, record: EngineEnded) -> None:
        """This peer's engine ended; the oldest is forgotten beyond ``UNTOLD_MAX``."""
        self._records[record.id] = record
        while len(self._records) > UNTOLD_MAX:
            self._records.pop(next(iter(self._records)))

    def committed(self, record: EngineEnded) -> None:
        self._records.pop(record.id, None)
        self._proposed.pop(record.id, None)

    def to_tell(self) -> tuple[EngineEnded, ...]:
        """Of this peer, for its gossip."""
        return tuple(self._records.values())

    def due(self, told: Iterable[EngineEnded], term: int) -> list[EngineEnded]:
        """What the leader of ``term`` has not proposed yet."""
        return [record for record in told if self._proposed.get(record.id) != term]

    def proposed(self, record: EngineEnded, term: int) -> None:
        self._proposed[record.id] = term
        while len(self._proposed) > PROPOSED_MAX:
            self._proposed.pop(next(iter(self._proposed)))


def quarantined(case: Case) -> QuarantinedCase:
    """A case, for an operator."""
    it = case.exposure
    deaths = tuple(CaseDeath(d.peer, d.term, d.led, d.cause, d.at, d.alone) for d in case.deaths)
    return QuarantinedCase(
        it.content, it.kind, it.what, it.client, it.session, it.sequence, case.set_aside, deaths
    )


def blamed(record: EngineEnded) -> dict[str, Any]:
    """What a leader's engine ended of, for the history."""
    return {
        "peer": record.peer,
        "ended": record.cause,
        "of": [f"{it.kind} {it.what} of {it.client or 'the cell'}" for it in record.open],
    }


def in_words(case: Case) -> str:
    """A case in a sentence, for the status."""
    it = case.exposure
    whose = f" of {it.client}" if it.client else ""
    return f"{it.kind} {it.what}{whose}: {case.reason} [{it.content.hex()}]"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
