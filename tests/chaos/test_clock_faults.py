"""Clocks of a running process jump, run fast or stand still, and nobody else's do."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chaos.faults import clock
from chaos.faults.base import parse
from chaos.faults.registry import FAULTS
from tests.chaos.toy_target import ToyTarget

ASKED = """
import sys, time
for _ in sys.stdin:
    print(time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME), flush=True)
"""


@pytest.fixture
def target(tmp_path: Path) -> Any:
    with ToyTarget(tmp_path, "a", "b") as target:
        if (why := FAULTS.of(parse("clock")).unavailable(target)) is not None:
            pytest.skip(why)
        clock.prepare(target)
        yield target


def off(target: Any, asked: subprocess.Popen[str]) -> list[float]:
    """By how much the clocks of the process are off: wall, steady, since the boot."""
    assert asked.stdin is not None
    assert asked.stdout is not None
    asked.stdin.write("\n")
    asked.stdin.flush()
    said = map(float, asked.stdout.readline().split())
    ours = (time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))
    return [theirs - mine for theirs, mine in zip(said, ours, strict=True)]


def test_the_clocks_of_a_running_process_are_as_its_page_says(target: Any) -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", ASKED],
        env=target.environment("a"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as asked:
        page = clock.page_of(target, "a")
        assert off(target, asked) == pytest.approx([0, 0, 0], abs=0.2)
        clock.SETTINGS["forward"].write(page)
        assert off(target, asked) == pytest.approx([3600, 0, 0], abs=0.2)
        clock.Setting(-7.0, -7.0).write(page)
        assert off(target, asked) == pytest.approx([-7, -7, -7], abs=0.2)
        clock.Setting().write(page)
        assert off(target, asked) == pytest.approx([0, 0, 0], abs=0.2)
        clock.SETTINGS["fast"].write(page)
        first = off(target, asked)
        time.sleep(0.5)
        gained = [b - a for a, b in zip(first, off(target, asked), strict=True)]
        assert gained == pytest.approx([0.15] * 3, abs=0.05)


def test_a_process_without_the_library_proves_no_skew(target: Any) -> None:
    call = parse("clock:back:a")
    active = FAULTS.of(call).inject(target, call.arguments, Random(1))
    assert active.proof() is None, "it was started before it was prepared"
    target.restart("a")
    proof = active.proof()
    assert proof is not None
    assert "off by -3600" in proof
    active.heal()
    assert clock.probe(target, "a") == pytest.approx(0, abs=0.2)
