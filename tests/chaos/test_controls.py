"""Negative controls: each edit fits today's source, and a run without the safeguard is caught.

The runs are slow: ``make test PYTEST_ARGS="-m slow tests/chaos/test_controls.py"``, ten minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chaos.controls.catalogue import CONTROLS, Control, Edit, NoControl, of, source_of
from chaos.controls.install import SAID, change
from chaos.execution import execute
from chaos.scenario import Scenario, changed
from tests.deadlines import SCALE

#: A hole: docs/faults.md.
NOT_SHOWN = {"no-typed-decoding"}


@pytest.mark.parametrize("control", CONTROLS.values(), ids=lambda control: control.name)
def test_each_edit_fits_the_source_of_today(control: Control) -> None:
    changed_sources: dict[str, str] = {}
    for edit in control.edits:
        source = changed_sources.get(edit.module) or source_of(edit.module)
        changed_sources[edit.module] = edit.apply(source)
    for module, source in changed_sources.items():
        compile(source, module, "exec")


def test_a_process_has_the_safeguard_taken_away_and_says_so() -> None:
    environment = dict(os.environ)
    change(environment, [CONTROLS["no-pre-vote"]])
    field = "Config.__dataclass_fields__['pre_vote'].default"
    code = f"from ha_scheduler.raft.config import Config; print({field})"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert f"{SAID} ha_scheduler.raft.config" in done.stderr


def test_an_edit_that_fits_no_longer_ends_the_process() -> None:
    environment = dict(os.environ)
    gone = Edit("ha_scheduler.raft.config", "no such text", "")
    change(environment, [Control("x", "", (gone,), {})])
    done = subprocess.run(
        [sys.executable, "-c", "import ha_scheduler.raft.config"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "is not as the edit of it expects" in done.stderr


def test_what_is_no_safeguard_is_refused() -> None:
    with pytest.raises(NoControl, match="no-fsync"):
        of(["gravity"])


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(400 * SCALE)
@pytest.mark.parametrize("name", sorted(CONTROLS.keys() - NOT_SHOWN))
def test_a_run_without_a_safeguard_is_found_to_be_wrong(name: str, tmp_path: Path) -> None:
    control = CONTROLS[name]
    fields: dict[str, Any] = {**control.scenario, "controls": (control.name,)}
    summary = execute(changed(Scenario(), **fields), tmp_path / "run", print)
    assert summary["verdict"] == "violation", summary["checks"]
