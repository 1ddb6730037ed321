"""The harness breaks a real cell, and has nothing to say against it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from chaos.cli import main
from tests.deadlines import SCALE

pytestmark = [pytest.mark.system, pytest.mark.timeout(120 * SCALE)]


def test_the_smoke_suite_finds_nothing_and_has_broken_something(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["suite", "smoke", "--store", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("suite-smoke/*/*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["verdict"] == "valid"
    assert all(fault["proof"] for fault in summary["faults"])
    assert summary["checks"]["lost"]["operations"] > 50
    assert (path.parent / "timeline.html").exists()
