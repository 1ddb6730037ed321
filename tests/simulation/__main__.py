"""Play many seeds over the cores, and say what came of them.

    python -m tests.simulation --seeds 1000 --jobs 2
    python -m tests.simulation --seed 17 --trace

Exit code: 0 all passed, 127 a crash, 128 a liveness violation, 129 a safety violation (the worst of
those that were found); with ``--control``: 0 if a violation was found, 1 if not.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter

from .options import Control
from .run import SAFETY_S, Outcome, Verdict, run_seed

PAST_SEEDS = Path(__file__).with_name("seeds.txt")
SAMPLE = 20  # seeds whose branches are counted
CHUNK = 4  # seeds given to a process at a time


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    control = Control(options.control) if options.control else None
    if options.seed is not None:
        return _one(options.seed, options.seconds, control, trace=options.trace)
    first, count = options.first_seed, options.seeds
    seeds: list[int] = list(range(first, first + count))
    if options.past:
        seeds = past_seeds() + seeds
    play = partial(run_seed, safety_s=options.seconds, control=control)
    began = perf_counter()
    outcomes = []
    for outcome in _play(play, seeds, options.jobs):
        outcomes.append(outcome)
        if outcome.verdict is not Verdict.PASSED:
            _tell(outcome, options.seconds, control)
            if options.stop or control is not None:
                break
    _sum_up(outcomes, perf_counter() - began)
    worst = max((outcome.verdict.value for outcome in outcomes), default=0)
    if control is not None:
        print("the control was caught" if worst else "the control was NOT caught")
        return 0 if worst else 1
    if options.branches and not worst:
        from .branches import measure

        print(measure(seeds[: options.branches], safety_s=options.seconds))
    return worst


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    add = parser.add_argument
    add("--seeds", type=int, default=200, help="how many")
    add("--first-seed", type=int, default=0)
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    add("--seconds", type=float, default=SAFETY_S, help="simulated, of each safety phase")
    add("--seed", type=int, help="play this one only, and tell how it ended")
    add("--trace", action="store_true", help="with --seed: print everything that happens")
    add("--stop", action="store_true", help="stop at the first failure")
    add("--past", action="store_true", help="play the seeds of past failures first")
    add("--control", choices=[c.value for c in Control], help="a world that must fail")
    add("--branches", type=int, default=SAMPLE, help="count branches over so many seeds; 0: none")
    return parser


def past_seeds() -> list[int]:
    """Seeds that once failed; what each had found stands beside it."""
    lines = PAST_SEEDS.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and line[0].isdigit()]


def _one(seed: int, seconds: float, control: Control | None, *, trace: bool) -> int:
    outcome = run_seed(seed, safety_s=seconds, control=control, show=print if trace else None)
    print(outcome.story)
    _sum_up([outcome], outcome.took_s)
    return outcome.verdict.value


def _play(play: partial[Outcome], seeds: Iterable[int], jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        yield from map(play, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(play, seeds, chunksize=CHUNK)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _tell(outcome: Outcome, seconds: float, control: Control | None) -> None:
    print(f"\nseed {outcome.seed}: {outcome.verdict.name}\n{outcome.story}\n")
    more = f" --seconds {seconds:g}" if seconds != SAFETY_S else ""
    more += f" --control {control.value}" if control else ""
    print(f"again: {sys.executable} -m tests.simulation --seed {outcome.seed}{more} --trace\n")


def _sum_up(outcomes: list[Outcome], took_s: float) -> None:
    def total(name: str) -> int:
        return sum(getattr(outcome, name) for outcome in outcomes)

    hours = sum(outcome.simulated_s for outcome in outcomes) / 3600
    print(
        f"{len(outcomes)} seeds in {took_s:.1f} s "
        f"({len(outcomes) / max(took_s, 1e-9):.1f} a second), "
        f"{hours:.2f} simulated hours, {total('events')} events: {total('elections')} elections, "
        f"{total('applied')} entries applied, {total('reads')} reads and {total('lease_reads')} "
        f"under a lease, {total('crashes')} crashes"
    )
    verdicts = Counter(outcome.verdict.name.lower() for outcome in outcomes)
    print(", ".join(f"{count} {name}" for name, count in sorted(verdicts.items())))


if __name__ == "__main__":
    sys.exit(main())
