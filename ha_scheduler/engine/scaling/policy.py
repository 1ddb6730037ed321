"""How many workers each owner should have. Pure: no clock, no scheduler.

An *owner* is who starts workers for a cell: a cluster object, a command of the site. Its workers
are those whose names begin with its own and a dash. Workers of nobody count as there to stay.

Guarantee: nobody is asked for more than its maximum, nor for less than its minimum; what the cell
needs is asked for once and not of each owner; who has workers keeps them before another is asked
for new ones. Workers that end soon do not count as there, so that others come before they go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ha_scheduler.protocol.engine import WANTED_MAX

WORKERS_MAX = WANTED_MAX


class Policy(StrEnum):
    """What decides, between the bounds."""

    LOAD = "load"  # upstream's ``adaptive_target``
    FIXED = "fixed"  # the minimum, always


class Signal(StrEnum):
    """What an owner is told (Dask for Institutions)."""

    DURESS = "under duress"  # please add workers
    IDLING = "idling"  # please reclaim some
    CONTENT = "content"


@dataclass(frozen=True, slots=True)
class Goal:
    """What an owner wants of the cell. ``target_duration_s``: as upstream's ``Adaptive``."""

    policy: Policy = Policy.LOAD
    minimum: int = 0
    maximum: int = WORKERS_MAX
    target_duration_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum <= WORKERS_MAX:
            raise ValueError(
                f"minimum {self.minimum} and maximum {self.maximum} are to be in order, and "
                f"between 0 and {WORKERS_MAX}"
            )
        if not 0 < self.target_duration_s < float("inf"):
            raise ValueError(f"a target duration of {self.target_duration_s} s is not positive")


@dataclass(frozen=True, slots=True)
class Owned:
    """What an owner has. ``present``: whether it would start more; one that is away would not."""

    staying: int
    ending: int
    present: bool = True


def shares(
    goals: Mapping[str, Goal],
    owned: Mapping[str, Owned],
    needed: Mapping[str, int],
    unowned: int,
) -> dict[str, int]:
    """How many staying workers each owner should have.

    ``needed``: how many the whole cell needs, by each owner's target duration. ``unowned``: workers
    that are nobody's, or an owner's without a goal.
    """
    order = sorted(goals)
    wanted = {owner: goals[owner].minimum for owner in order}
    # What an owner that is away does not have, nobody gets of it.
    placed = unowned + sum(
        wanted[o] if owned[o].present else min(wanted[o], owned[o].staying) for o in order
    )

    def give(owner: str, limit: int) -> None:
        nonlocal placed
        goal = goals[owner]
        if goal.policy is Policy.LOAD:
            more = min(limit, goal.maximum) - wanted[owner]
            more = max(0, min(more, needed[owner] - placed))
            wanted[owner] += more
            placed += more

    for owner in order:
        give(owner, owned[owner].staying)
    for owner in order:
        if owned[owner].present:
            give(owner, goals[owner].maximum)
    return wanted


def signal(wanted: int, owned: Owned) -> Signal:
    """What an owner is told that should have ``wanted`` workers."""
    if owned.staying < wanted:
        return Signal.DURESS
    return Signal.IDLING if owned.staying > wanted else Signal.CONTENT


def ends_soon(left_s: float, lifetime_s: float, replace_before_s: float) -> bool:
    """Whether a worker with ``left_s`` of its lifetime is to be replaced.

    Never in the first two thirds of it: a replacement would have to be replaced as it comes.
    """
    return left_s < min(replace_before_s, lifetime_s / 3)
