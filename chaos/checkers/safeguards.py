"""What only shows when a safeguard is gone, and whether one that was to be gone was.

``undisturbed``: a leader whom no fault has touched leads on. A follower that comes back from a cut
must not depose it: that costs every client an outage for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chaos.checkers.base import Checker, Finding, some, unknown, violation
from chaos.controls.install import SAID
from chaos.faults.base import parse
from chaos.record import CLIENTS, Record

#: Faults that touch nobody but the peers that they name.
CONFINED = ("partition", "pause", "kill", "packets", "unplug", "disk", "damage")
FOLLOWERS = ("follower", "followers")

_Found = tuple[Iterable[Finding], Mapping[str, Any]]


def _undisturbed(record: Record) -> _Found | None:
    calls = [parse(text) for text in record.scenario.faults]
    spares_leader = all(
        call.name in CONFINED and set(FOLLOWERS) & set(call.arguments) for call in calls
    )
    terms = [
        (status["term"], name)
        for sample in record.samples
        for name, status in sample.peers.items()
        if status.get("role") == "leader" and status.get("serving")
    ]
    if not calls or not spares_leader or not terms:
        return None
    first, last = min(terms), max(terms)
    if first[0] == last[0]:
        return (), {"terms": 1}
    text = (
        f"{last[1]} leads term {last[0]} in place of {first[1]} in term {first[0]}, though only "
        f"followers were struck"
    )
    return [violation(text)], {"terms": len({term for term, _ in terms})}


def _taken_away(record: Record) -> _Found | None:
    """A control that was not in force would make a pass of nothing."""
    wanted = record.scenario.controls
    if not wanted:
        return None
    paths = [*record.logs.values(), *(record.directory / CLIENTS).glob("*.log")]
    said = sum(path.read_text(errors="replace").count(SAID) for path in paths)
    findings = [] if said else [unknown(f"{', '.join(wanted)}: no process had it taken away")]
    return findings, {"processes": said}


def _believed(record: Record) -> _Found | None:
    """Nobody can tell from outside what is damaged and what is read; the end of a run shows both:
    who was one of a whole cell to the end had found nothing."""
    if not record.ledgers or record.facts.settled_s is None:
        return None
    damaged = {name: ledger.error for name, ledger in record.ledgers.items() if ledger.error}
    texts = (
        f"{name} was up to the end, on a log that is damaged: {error}"
        for name, error in damaged.items()
    )
    return some(texts), {"damaged": len(damaged)}


CHECKERS = (
    Checker("believed", "no peer goes on with a log that is damaged", _believed),
    Checker("undisturbed", "a leader that no fault has touched leads on", _undisturbed),
    Checker("controls", "the safeguards that were to be gone were", _taken_away),
)
