"""Verdicts, and how those of several checkers become one.

``violation``: a promise was broken, and the run shows where. ``unknown``: nothing was found, and
nothing is proved either (a fault did not fire, too little was done). ``valid``: neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from chaos.record import Record

Verdict = Literal["valid", "violation", "unknown"]

EXAMPLES_MAX = 10  # of one kind of finding


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, or what cannot be told, in one sentence."""

    verdict: Verdict
    text: str


@dataclass(frozen=True, slots=True)
class Result:
    """Of one checker."""

    name: str
    findings: tuple[Finding, ...]
    counts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        return worst(finding.verdict for finding in self.findings)


#: Gives findings and counts; None: it has nothing to say of this run.
Check = Callable[[Record], tuple[Iterable[Finding], Mapping[str, Any]] | None]


@dataclass(frozen=True, slots=True)
class Checker:
    """``about``: what holds if it finds nothing."""

    name: str
    about: str
    check: Check

    def __call__(self, record: Record) -> Result | None:
        found = self.check(record)
        return None if found is None else Result(self.name, tuple(found[0]), found[1])


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """A violation counts most: what was seen was seen, whatever else was not."""
    all_of_them = set(verdicts)
    if "violation" in all_of_them:
        return "violation"
    return "unknown" if "unknown" in all_of_them else "valid"


def violation(text: str) -> Finding:
    return Finding("violation", text)


def unknown(text: str) -> Finding:
    return Finding("unknown", text)


def some(texts: Iterable[str]) -> Iterable[Finding]:
    """Violations, of which a few are named and the others counted."""
    found = list(texts)
    yield from map(violation, found[:EXAMPLES_MAX])
    if len(found) > EXAMPLES_MAX:
        yield violation(f"and {len(found) - EXAMPLES_MAX} more of this kind")
