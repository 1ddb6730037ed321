"""A leader that falls silent: no FIN, no RST, its processes run on. On hosts that can be cut off.

The silenced leader is watched from its own host meanwhile: it must stop before another begins.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.counting import counted_sleep, verdict
from benchmarks.silent_drop import BLOWS, silence_leader
from benchmarks.spread_cell import SpreadCell
from chaos.wire.network import NoNamespaces, check_permitted
from tests.system.conftest import DEADLINE_S, SCALE, wait_until

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300 * SCALE)]

N_TASKS = 60
TASK_S = 0.05
LATEST_S = 2.5 * SCALE  # docs/design.md §11: p99 of cut → first task finished


@pytest.fixture(autouse=True, scope="module")
def _permitted() -> None:
    try:
        check_permitted()
    except NoNamespaces as error:
        pytest.skip(f"no network namespaces: {error}")


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory, _permitted: None) -> Iterator[SpreadCell]:
    with SpreadCell(tmp_path_factory.mktemp("cell")) as cell:
        yield cell


@dataclass
class Work:
    """Tasks that count their executions; the number of each is its place in ``futures``."""

    client: Any
    directory: Path
    futures: list[Any] = field(default_factory=list)

    def submit(self, seconds: float = 0.0) -> Any:
        future = self.client.submit(
            counted_sleep, len(self.futures), directory=str(self.directory), seconds=seconds
        )
        self.futures.append(future)
        return future

    def start(self, count: int) -> None:
        for _ in range(count):
            self.submit(TASK_S)
        wait_until(lambda: self.futures[0].done(), "the first task is done")

    def finish(self) -> dict[str, int]:
        self.client.gather(self.futures)
        return verdict(self.client, self.futures, self.directory)


@pytest.fixture
def work(cell: SpreadCell, tmp_path: Path) -> Work:
    cell.wait_until_ready()
    return Work(cell.client, tmp_path)


def nothing_lost(work: Work) -> dict[str, int]:
    return {"finished": len(work.futures), "wrong": 0, "lost": 0, "repeated": 0}


@pytest.mark.parametrize("how", ["drop", "unplug", "deaf", "mute", "freeze"])
def test_work_goes_on_without_a_leader_that_fell_silent(
    cell: SpreadCell, work: Work, how: str
) -> None:
    work.start(N_TASKS)
    failover = silence_leader(cell, BLOWS[how], work.submit)
    assert failover.violations == []
    assert work.finish() == nothing_lost(work)
    # Until a leader that still sends finds that it hears nobody, nobody else has a reason to stand.
    grace_s = failover.phases["engine_ended"] if how == "deaf" else 0.0
    assert failover.phases["first_task"] < LATEST_S + grace_s, failover


def test_a_task_that_runs_at_the_cut_runs_on(cell: SpreadCell, work: Work) -> None:
    long = work.submit(seconds=4.0)
    wait_until(lambda: any(work.directory.iterdir()), "it runs")
    cut = time.monotonic()
    failover = silence_leader(cell, BLOWS["drop"], lambda: long)
    assert failover.violations == []
    assert time.monotonic() - cut > 3.0, "it was running before, during and after the failover"
    assert work.finish() == nothing_lost(work)


@pytest.mark.parametrize("silence_s", [0.3, 0.7, 1.0])
def test_a_leader_that_is_heard_again_changes_nothing_twice(
    cell: SpreadCell, work: Work, silence_s: float
) -> None:
    """Before its lease is over, about when another is elected, and when that one just serves."""
    work.start(N_TASKS)
    leader = cell.leader().name
    cell.network.cut(leader)
    during = work.submit()
    time.sleep(silence_s)
    assert cell.network.heal() > 0
    during.result(DEADLINE_S)
    cell.wait_until_ready()
    assert work.finish() == nothing_lost(work)
