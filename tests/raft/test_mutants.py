"""Do the tests notice? Each seeded bug must make the suite fail (minutes: run with ``-m slow``)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
SUITE = (
    "test_parts",
    "test_elections",
    "test_replication",
    "test_membership",
    "test_transfer",
    "test_reads",
    "test_snapshots",
    "test_driver_contract",
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_the_text_of_every_mutant_is_still_in_the_source(mutant: Mutant) -> None:
    source = (ROOT / "ha_scheduler" / "raft" / mutant.module).read_text()
    assert source.count(mutant.before) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_the_suite_notices_the_mutant(mutant: Mutant, tmp_path: Path) -> None:
    copy_with(mutant, tmp_path)
    files = [f"tests/raft/{name}.py" for name in SUITE]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 1, done.stdout.decode()[-2000:]


def copy_with(mutant: Mutant, target: Path) -> None:
    """The package and its tests, with one bug."""
    shutil.copytree(ROOT / "ha_scheduler" / "raft", target / "ha_scheduler" / "raft")
    (target / "ha_scheduler" / "__init__.py").touch()
    shutil.copytree(ROOT / "tests" / "raft", target / "tests" / "raft")
    shutil.copy(ROOT / "pyproject.toml", target)
    module = target / "ha_scheduler" / "raft" / mutant.module
    text = module.read_text()
    assert mutant.before in text
    module.write_text(text.replace(mutant.before, mutant.after))
