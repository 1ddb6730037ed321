"""When which fault falls and is healed: a function of the scenario, and of nothing else.

Guarantee: the same scenario gives the same schedule, on any machine. Whom a word like ``leader``
means is decided when it falls, as nobody can know it before; the random numbers for that are drawn
from the seed and the number of the injection.

No fault falls while the one before it lasts, unless the scenario's faults are joined by ``+`` into
one: then all of them fall at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from chaos.faults.base import Call, parse
from chaos.scenario import Scenario

JITTER = 0.25  # of the interval
GAP_S_MIN = 0.5  # between the heal of one and the fall of the next

#: Seconds that a call says it lasts, or None.
Lasts = Callable[[Call], float | None]


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault. Times are seconds after the first client has begun its work."""

    number: int
    call: Call
    at_s: float
    heal_at_s: float

    def random(self, seed: int) -> Random:
        """The random numbers of this injection."""
        return Random(f"{seed} injection {self.number}")


def schedule(scenario: Scenario, lasts: Lasts) -> tuple[Injection, ...]:
    """In the order of ``at_s``. Each fault of the scenario falls before any falls twice."""
    random = Random(f"{scenario.seed} schedule")
    found: list[Injection] = []
    at = scenario.baseline_s
    end = scenario.baseline_s + scenario.time_limit_s
    for call in _rounds(scenario, random):
        duration = lasts(call) or scenario.lasts_s
        if at >= end or (found and at + duration > end):
            break
        found.append(Injection(len(found), call, at, at + duration))
        spread = scenario.interval_s * random.uniform(1 - JITTER, 1 + JITTER)
        at = max(at + spread, at + duration + GAP_S_MIN)
    return tuple(found)


def _rounds(scenario: Scenario, random: Random) -> Iterator[Call]:
    calls = [parse(text) for text in scenario.faults]
    while calls:
        random.shuffle(calls)
        yield from calls


def describe(injections: tuple[Injection, ...]) -> str:
    """The plan for people, one line for each."""
    return "\n".join(
        f"{injection.at_s:7.2f} s  {injection.call!s:<28} healed at {injection.heal_at_s:.2f} s"
        for injection in injections
    )
