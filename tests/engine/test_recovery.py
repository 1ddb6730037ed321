"""A recovery that fails ends its engine, and in the tests of the engine its test."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from ha_scheduler.engine.scheduler import Scheduler
from tests.engine.conftest import pair

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
