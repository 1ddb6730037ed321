"""Seeds of the simulator. A failing one is replayed by its number alone."""

from __future__ import annotations

import pytest

from .simulator import Simulator, World

STEPS = 12_000
ROUGH = World(loss=0.15, duplicate=0.15, delay=0.4, cut=0.02, heal=0.05, crash=0.02)
SHRINKING = World(change=0.2, transfer=0.04, cut=0.005, crash=0.01)


@pytest.mark.parametrize("seed", range(40))
def test_a_cell_stays_safe_in_a_hostile_world_and_live_after_it(seed: int) -> None:
    Simulator(seed, peers=3 if seed % 3 else 5).run(STEPS)


@pytest.mark.parametrize("seed", range(1000, 1010))
def test_a_cell_survives_a_very_lossy_network(seed: int) -> None:
    Simulator(seed, world=ROUGH).run(STEPS)


@pytest.mark.parametrize("seed", range(2000, 2015))
def test_a_cell_survives_constant_change_of_its_membership(seed: int) -> None:
    Simulator(seed, world=SHRINKING).run(STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_many_more_seeds(block: int) -> None:
    for seed in range(10_000 + block * 100, 10_100 + block * 100):
        world = (None, ROUGH, SHRINKING)[seed % 3]
        Simulator(seed, peers=(1, 2, 3, 4, 5)[seed % 5], world=world).run(STEPS)
