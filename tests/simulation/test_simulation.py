"""Seeds of the simulation. A failing one is replayed by its number alone (docs/testing.md)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from chaos.simulation.branches import ROOT
from chaos.simulation.command import past_seeds
from chaos.simulation.options import Control, draw
from chaos.simulation.run import SAFETY_S, Verdict, run_seed

BLOCK = 10  # seeds of one test
BLOCKS = 20
CONTROL_SEEDS_MAX = 40  # within which each control must be caught


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_cell_stays_safe_whatever_happens_and_goes_on_when_a_quorum_is_well(block: int) -> None:
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        outcome = run_seed(seed)
        assert outcome.verdict is Verdict.PASSED, outcome.story


@pytest.mark.parametrize("seed", past_seeds())
def test_what_has_failed_once_does_not_fail_again(seed: int) -> None:
    outcome = run_seed(seed)
    assert outcome.verdict is Verdict.PASSED, outcome.story


@pytest.mark.parametrize("control", Control)
def test_a_world_that_breaks_an_assumption_is_caught(control: Control) -> None:
    verdicts = (run_seed(seed, control=control).verdict for seed in range(CONTROL_SEEDS_MAX))
    assert Verdict.SAFETY in verdicts


def test_a_seed_plays_the_same_history_in_every_process() -> None:
    assert _history(7, hash_seed="1") == _history(7, hash_seed="2")


def _history(seed: int, hash_seed: str) -> list[str]:
    command = [sys.executable, "-m", "chaos.cli", "sim", "--seed", str(seed), "--trace"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stdout.splitlines() if " seeds in " not in line]
    assert len(lines) > 1000
    return lines


def test_a_history_has_elections_reads_crashes_and_work() -> None:
    """A simulation in which nothing happens would pass as well."""
    outcomes = [run_seed(seed) for seed in range(10)]
    assert sum(o.elections for o in outcomes) > 20
    assert sum(o.applied for o in outcomes) > 1000
    assert sum(o.reads for o in outcomes) > 50
    assert sum(o.lease_reads for o in outcomes) > 10
    assert sum(o.crashes for o in outcomes) > 50


def test_every_kind_of_fault_is_there_in_some_worlds_and_absent_in_others() -> None:
    worlds = [draw(seed, safety_s=SAFETY_S) for seed in range(200)]
    kinds = {kind for world in worlds for kind in world.every}
    for kind in kinds:
        assert 0 < sum(kind in world.every for world in worlds) < len(worlds)
