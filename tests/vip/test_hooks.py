"""Commands of a site at the begin and the end of leading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from ha_scheduler.vip.hooks import Commands, Hooks
from tests.deadlines import SCALE


def noting(file: Path, word: str) -> str:
    return f'echo "{word} $DASK_HA_PEER $DASK_HA_CELL $DASK_HA_TERM" >> {file}'


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5 * SCALE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_they_run_in_order_with_who_and_when(tmp_path: Path) -> None:
    told = tmp_path / "told"
    hooks = Hooks(Commands(noting(told, "up"), noting(told, "down")), "a", "a,b,c")
    hooks.lead(7)
    await until(told.exists)
    await hooks.stop()
    assert told.read_text().splitlines() == ["up a a,b,c 7", "down a a,b,c 7"]


async def test_a_leadership_that_ended_before_its_command_began_is_skipped(tmp_path: Path) -> None:
    told = tmp_path / "told"
    go_on = tmp_path / "go-on"
    slow = f"{noting(told, 'up')}; while [ ! -e {go_on} ]; do sleep 0.02; done"
    hooks = Hooks(Commands(slow, noting(told, "down")), "a", "cell")
    hooks.lead(1)
    await until(told.exists)
    hooks.end(2)
    hooks.lead(3)
    hooks.end(4)
    hooks.lead(5)
    go_on.touch()
    await hooks.stop()
    assert [line.split()[0] for line in told.read_text().splitlines()] == ["up", "down"]


async def test_one_that_hangs_is_killed_with_its_children(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pid = tmp_path / "pid"
    hanging = f"sleep 600 & echo $! > {pid}; wait"
    hooks = Hooks(Commands(hanging), "a", "cell", time_limit_s=0.5 * SCALE)
    hooks.lead(3)
    await until(pid.exists)
    await hooks.stop()
    assert "the command of --on-promote failed for term 3 (status still running" in caplog.text
    state = Path(f"/proc/{pid.read_text().strip()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


async def test_a_failure_is_said_and_the_peer_leads_on(caplog: pytest.LogCaptureFixture) -> None:
    hooks = Hooks(Commands("exit 3"), "a", "cell")
    hooks.lead(2)
    await until(lambda: "failed for term 2 (status 3)" in caplog.text)
    await hooks.stop()


async def test_without_commands_nothing_runs() -> None:
    hooks = Hooks(Commands(), "a", "cell")
    hooks.lead(1)
    await hooks.stop()
