"""The history of leader changes, for people: when, who, and how long each phase took.

Guarantee: the durations of an entry are differences of the new leader's CLOCK_MONOTONIC, never
mixed with the old leader's. Zero is the moment at which any peer first noticed that nobody served:
since then users wait, whichever peers have stood for election and failed in between. Others say how
long ago that was, by their own clocks, so it is right but for the way of a message.

Entries are spread by gossip, so they outlive the leader that wrote them, and each peer keeps those
that it knows in a file: they outlive a restart of all.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from ha_scheduler.protocol.peer import Failover

ENTRIES_MAX = 100  # changes of leader remembered
PHASES_MAX = 32  # of one entry; the engine names them
CAUSE = "cause"  # in the details: what the former leader's engine ended of
TAIL = 3  # entries in gossip and status


class LeaderHistory:
    """The last ``ENTRIES_MAX`` changes of leader, by term."""

    def __init__(self) -> None:
        self._entries: dict[int, Failover] = {}
        self._zero: dict[int, float] = {}  # of our own entries: CLOCK_MONOTONIC at ``started``
        self.changes = 0

    def begin(
        self, term: int, leader: str, detected: float, now: float, noticed: float | None = None
    ) -> None:
        """This peer was elected. All times are CLOCK_MONOTONIC.

        ``detected``: by this peer; ``noticed``: by the first one, if known.
        """
        zero = min(detected, noticed) if noticed is not None else detected
        started = time.time() - (time.monotonic() - zero)
        self._entries[term] = Failover(term, leader, started, {}, {})
        self._zero[term] = zero
        if zero < detected:
            self.mark(term, "noticed", zero)
        self.mark(term, "detected", detected)
        self.mark(term, "elected", now)
        self._trim()

    def mark(self, term: int, phase: str, at: float, detail: dict[str, Any] | None = None) -> None:
        """A phase of our own term was reached at ``at``; the first report counts."""
        entry, zero = self._entries.get(term), self._zero.get(term)
        if entry is None or zero is None or phase in entry.phases:
            return
        if len(entry.phases) >= PHASES_MAX:
            return
        entry.phases[phase] = max(0.0, at - zero)
        self.changes += 1
        if detail:
            entry.details[phase] = detail

    def caused_by(self, cause: dict[str, Any], term: int) -> None:
        """Why the leader of ``term`` lost its engine: of the entry of ours that followed it."""
        own = [later for later in self._zero if later > term and later in self._entries]
        entry = self._entries[min(own)] if own else None
        if entry is not None:
            entry.details.setdefault(CAUSE, cause)
            self.changes += 1

    def merge(self, entries: Iterable[Failover]) -> None:
        """Entries of another peer; our own win, a longer one of the same term replaces."""
        for entry in entries:
            known = self._entries.get(entry.term)
            if entry.term in self._zero:
                continue
            if known is None or _size(entry) >= _size(known):
                self.changes += entry != known
                self._entries[entry.term] = entry
        self._trim()

    def tail(self, count: int = TAIL) -> tuple[Failover, ...]:
        """The newest ``count`` entries, oldest first."""
        return tuple(self._entries[term] for term in sorted(self._entries)[-count:])

    def _trim(self) -> None:
        for term in sorted(self._entries)[:-ENTRIES_MAX]:
            del self._entries[term]
            self._zero.pop(term, None)


def _size(entry: Failover) -> int:
    return len(entry.phases) + len(entry.details)
