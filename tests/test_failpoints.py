"""A process dies at the failpoint that a test names, once, and at no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ha_scheduler import failpoints

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
from ha_scheduler import failpoints
failpoints.reach("one")
failpoints.reach("two")
"""


def run(tokens: Path | None) -> int:
    environment = dict(os.environ)
    environment.pop(failpoints.VARIABLE, None)
    if tokens is not None:
        environment[failpoints.VARIABLE] = str(tokens)
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def test_a_token_ends_one_process(tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    (tmp_path / "two").touch()
    assert run(tmp_path) == -signal.SIGKILL
    assert run(tmp_path) == 0


def test_a_token_with_a_number_holds_one_process_up_for_so_long(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("0.5")
    began = time.monotonic()
    assert run(tmp_path) == 0
    assert time.monotonic() - began > 0.5
    assert not (tmp_path / "one").exists()


def test_without_the_variable_nothing_happens(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    assert run(None) == 0
    assert (tmp_path / "one").exists()
