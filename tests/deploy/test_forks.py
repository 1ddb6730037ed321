"""A forked child owns nothing of its parent's (``ha_scheduler/forks.py``)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deadlines import SCALE

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]


def test_a_forked_child_ends_nothing_and_hears_that_it_owns_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.forking"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100 * SCALE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("closed") is False  # the parent itself still removes its directory
    assert len(found) == 6
    assert all(outcome == [0, True] for outcome in found.values()), (found, done.stderr)
