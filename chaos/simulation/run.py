"""One seed, from its options to its verdict."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from enum import Enum
from time import perf_counter

from chaos.simulation.checkers import LivenessViolationError, SafetyViolationError
from chaos.simulation.nemesis import Nemesis
from chaos.simulation.options import Control, draw
from chaos.simulation.trace import Show
from chaos.simulation.world import World

SAFETY_S = 30.0  # simulated seconds of the safety phase
TAIL_LINES = 60


class Verdict(Enum):
    """How a seed ended; the value is the exit code of a run with one."""

    PASSED = 0
    CRASH = 127
    LIVENESS = 128
    SAFETY = 129


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one seed."""

    seed: int
    verdict: Verdict
    simulated_s: float
    took_s: float
    events: int
    elections: int
    applied: int
    reads: int
    lease_reads: int
    crashes: int
    story: str = ""


def run_seed(
    seed: int,
    *,
    safety_s: float = SAFETY_S,
    control: Control | None = None,
    show: Show | None = None,
) -> Outcome:
    """Both phases of the world of ``seed``."""
    began = perf_counter()
    world = World(draw(seed, safety_s=safety_s, control=control), show)
    verdict, story = Verdict.PASSED, ""
    try:
        Nemesis(world)
        world.timeline.run_until(world.options.safety_s)
        world.check_liveness()
    except LivenessViolationError as error:
        verdict, story = Verdict.LIVENESS, _story(world, error)
    except SafetyViolationError as error:
        verdict, story = Verdict.SAFETY, _story(world, error)
    except Exception as error:
        verdict, story = Verdict.CRASH, _story(world, error)
    checker = world.checker
    return Outcome(
        seed,
        verdict,
        world.timeline.now,
        perf_counter() - began,
        world.timeline.events,
        checker.elections,
        checker.applied,
        checker.reads_answered,
        checker.lease_reads,
        world.crashes,
        story,
    )


def _story(world: World, error: Exception) -> str:
    trace = (
        "".join(traceback.format_exception(error))
        if not isinstance(error, AssertionError) or not str(error)
        else ""
    )
    lines = [*world.trace.tail(TAIL_LINES), "", f"{type(error).__name__}: {error}", trace]
    return "\n".join([*lines, world.describe(), "", "options:", str(world.options)])
