"""A recovery that fails ends its engine, and in the tests of the engine its test."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from distributed.diagnostics.plugin import SchedulerPlugin

from ha_scheduler.engine.scheduler import Scheduler
from tests.engine.conftest import eventually, pair

FAILING = """
import asyncio
from ha_scheduler.engine.takeover.recovery import Recovery

async def recover():
    Recovery(lambda: 1 / 0).begin(())
    print("it goes on")

asyncio.run(recover())
"""


def test_an_engine_whose_recovery_fails_ends() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FAILING], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "The recovery failed; this engine exits." in ended.stderr
    assert "ZeroDivisionError" in ended.stderr
    assert not ended.stdout


@pytest.mark.parametrize("workers", [0, 1], ids=["at once", "when all have reported"])
def test_a_recovery_that_fails_is_a_test_that_fails(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(scheduler: Any) -> None:
        raise ZeroDivisionError("of this test")

    async def test() -> None:
        async with pair(workers) as both:
            monkeypatch.setattr(Scheduler, "open_recovery", fail)
            await both.kill_leader()
            await both.take_over()

    with pytest.raises(RuntimeError, match="Event loop stopped"):
        asyncio.run(test())


class WaitsForWorkers(SchedulerPlugin):
    """Starts when the workers have joined, and so after the port is bound."""

    async def start(self, scheduler: Any) -> None:
        if scheduler.term > 1:
            await eventually(lambda: len(scheduler.workers) == 2)


async def test_workers_that_report_while_plugins_start_are_not_waited_for() -> None:
    async with pair(workers=2) as both:
        await both.client.register_plugin(WaitsForWorkers())
        await both.kill_leader()
        await both.take_over(window_seconds=0.1)
        assert both.marks["workers_back"] == {"reported": 2, "missing": 0}
