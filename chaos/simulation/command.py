"""``dask-ha-chaos sim``: play many seeds over the cores, and say what came of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter

import click

from chaos.simulation.options import Control
from chaos.simulation.run import SAFETY_S, Outcome, Verdict, run_seed

PAST_SEEDS = Path(__file__).with_name("seeds.txt")
CHUNK = 4  # seeds given to a process at a time


@click.command()
@click.option("--seeds", type=int, default=200, show_default=True, help="How many.")
@click.option("--first-seed", type=int, default=0, show_default=True)
@click.option("--jobs", type=int, default=os.cpu_count() or 1, help="Processes.")
@click.option("--seconds", type=float, default=SAFETY_S, help="Simulated, of each safety phase.")
@click.option("--seed", type=int, help="Play this one only, and tell how it ended.")
@click.option("--trace", is_flag=True, help="With --seed: print everything that happens.")
@click.option("--stop", is_flag=True, help="Stop at the first failure.")
@click.option("--past", is_flag=True, help="Play the seeds of past failures first.")
@click.option(
    "--control", type=click.Choice([c.value for c in Control]), help="A world that must fail."
)
@click.option("--branches", type=int, default=0, help="Count branches over so many seeds.")
def sim(
    seeds: int,
    first_seed: int,
    jobs: int,
    seconds: float,
    seed: int | None,
    trace: bool,
    stop: bool,
    past: bool,
    control: str | None,
    branches: int,
) -> int:
    """Play cells on simulated networks, clocks and disks, by seed.

    Exit status: 0 all passed, 127 a crash, 128 no progress, 129 a broken promise (the worst of
    those that were found); with --control: 0 if a violation was found, 1 if not.
    """
    broken = Control(control) if control else None
    if seed is not None:
        return _one(seed, seconds, broken, trace=trace)
    chosen = [*(past_seeds() if past else ()), *range(first_seed, first_seed + seeds)]
    play = partial(run_seed, safety_s=seconds, control=broken)
    began = perf_counter()
    outcomes = []
    for outcome in _play(play, chosen, jobs):
        outcomes.append(outcome)
        if outcome.verdict is not Verdict.PASSED:
            _tell(outcome, seconds, broken)
            if stop or broken is not None:
                break
    _sum_up(outcomes, perf_counter() - began)
    worst = max((outcome.verdict.value for outcome in outcomes), default=0)
    if broken is not None:
        click.echo("the control was caught" if worst else "the control was NOT caught")
        return 0 if worst else 1
    if branches and not worst:
        from chaos.simulation.branches import measure

        click.echo(measure(chosen[:branches], safety_s=seconds))
    return worst


def past_seeds() -> list[int]:
    """Seeds that once failed; what each had found stands beside it."""
    lines = PAST_SEEDS.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and line[0].isdigit()]


def _one(seed: int, seconds: float, control: Control | None, *, trace: bool) -> int:
    outcome = run_seed(seed, safety_s=seconds, control=control, show=click.echo if trace else None)
    click.echo(outcome.story)
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
    click.echo(f"\nseed {outcome.seed}: {outcome.verdict.name}\n{outcome.story}\n")
    more = f" --seconds {seconds:g}" if seconds != SAFETY_S else ""
    more += f" --control {control.value}" if control else ""
    click.echo(f"again: dask-ha-chaos sim --seed {outcome.seed}{more} --trace\n")


def _sum_up(outcomes: list[Outcome], took_s: float) -> None:
    def total(name: str) -> int:
        return sum(getattr(outcome, name) for outcome in outcomes)

    hours = sum(outcome.simulated_s for outcome in outcomes) / 3600
    click.echo(
        f"{len(outcomes)} seeds in {took_s:.1f} s "
        f"({len(outcomes) / max(took_s, 1e-9):.1f} a second), "
        f"{hours:.2f} simulated hours, {total('events')} events: {total('elections')} elections, "
        f"{total('applied')} entries applied, {total('reads')} reads and {total('lease_reads')} "
        f"under a lease, {total('crashes')} crashes"
    )
    verdicts = Counter(outcome.verdict.name.lower() for outcome in outcomes)
    click.echo(", ".join(f"{count} {name}" for name, count in sorted(verdicts.items())))
