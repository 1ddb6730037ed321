"""Applies one seeded bug to a copy of the project and asks the layers of tests whether they notice.

Guarantee: the working tree is never touched. A layer notices if one of its tests fails (pytest's
exit code 1) or if it does not end in time; anything else (an import error, no tests found) is a
mistake of the mutant or of this module, and raises.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from ..raft.mutants import MUTANTS as CORE_MUTANTS
from .mutant import Mutant
from .peer import PEER_MUTANTS
from .store import STORE_MUTANTS

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = (*CORE_MUTANTS, *STORE_MUTANTS, *PEER_MUTANTS)
LAYER_TIMEOUT_S = 900  # of one layer; some bugs make a world endless
TEST_TIMEOUT_S = 120  # of one test
PATIENCE = "5"  # times longer deadlines: a slow machine must not pass for a test that notices
NICE = 5  # a run takes minutes: let others work meanwhile

SEEDS = "test_a_cell_stays_safe_whatever_happens_and_goes_on_when_a_quorum_is_well"
SIMULATION = (
    "tests/simulation/test_state_machine.py",
    f"tests/simulation/test_simulation.py::{SEEDS}",
)
CORE_LAYERS: dict[str, tuple[str, ...]] = {
    "plays": ("tests/raft/plays",),
    "tests": (
        "tests/raft/test_parts.py",
        "tests/raft/test_elections.py",
        "tests/raft/test_disruption.py",
        "tests/raft/test_terms.py",
        "tests/raft/test_replication.py",
        "tests/raft/test_flow_control.py",
        "tests/raft/test_membership.py",
        "tests/raft/test_transfer.py",
        "tests/raft/test_reads.py",
        "tests/raft/test_snapshots.py",
        "tests/raft/test_driver_contract.py",
    ),
    "simulation": SIMULATION,
}
STORE_LAYERS: dict[str, tuple[str, ...]] = {
    "tests": ("tests/storage", "tests/peer/test_driver_order.py"),
    "simulation": SIMULATION,
}
PEER_LAYERS: dict[str, dict[str, tuple[str, ...]]] = {
    "peer": {
        "tests": (
            "tests/peer/test_peer_parts.py",
            "tests/peer/test_replica_lease.py",
            "tests/peer/test_feed.py",
        ),
        "cells": ("tests/peer/test_peer_leadership.py",),
    },
    "ledger": {"tests": ("tests/ledger",)},
    "engine": {
        "tests": (
            "tests/engine/test_confirmations.py",
            "tests/engine/test_requests.py",
            "tests/engine/test_calls_to_workers.py",
            "tests/engine/test_silent_workers.py",
        ),
    },
}
LAYERS = ("plays", "tests", "cells", "simulation")
"""In the order of what they cost: seconds, seconds, and most of a minute each of the others."""

COPIED = (
    "ha_scheduler",
    "client_replay",
    "chaos",
    *("tests/raft", "tests/storage", "tests/peer", "tests/simulation", "tests/twins"),
    *("tests/ledger", "tests/engine", "tests/worker"),
)


def source(mutant: Mutant) -> Path:
    """The module that the bug is in, relative to the project."""
    return Path("ha_scheduler") / mutant.package / mutant.module


def layers(mutant: Mutant) -> dict[str, tuple[str, ...]]:
    """The layers that could notice, and their files."""
    if mutant in PEER_MUTANTS:
        return PEER_LAYERS[mutant.package.partition("/")[0]]
    return CORE_LAYERS if mutant in CORE_MUTANTS else STORE_LAYERS


def failing_without_mutant() -> str:
    """The first test that fails of the project as it stands: then no verdict means anything."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        _copy(Path(folder))
        groups = (CORE_LAYERS, STORE_LAYERS, *PEER_LAYERS.values())
        files = dict.fromkeys(file for group in groups for file in chain(*group.values()))
        return _first_failure(Path(folder), tuple(files))


def judge(mutant: Mutant) -> Iterator[tuple[str, str]]:
    """Each layer in turn, with the test that noticed, or nothing."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        _copy_with(mutant, Path(folder))
        for layer, files in layers(mutant).items():
            yield layer, _first_failure(Path(folder), files)


def _copy(target: Path) -> None:
    for name in COPIED:
        shutil.copytree(ROOT / name, target / name)
    (target / "tests" / "__init__.py").touch()
    for module in ("deadlines.py", "standalone.py", "conftest.py"):
        shutil.copy(ROOT / "tests" / module, target / "tests")
    shutil.copy(ROOT / "pyproject.toml", target)


def _copy_with(mutant: Mutant, target: Path) -> None:
    _copy(target)
    module = target / source(mutant)
    text = module.read_text()
    assert text.count(mutant.before) == 1, f"{mutant.name}: its text is not in {source(mutant)}"
    module.write_text(text.replace(mutant.before, mutant.after))


def _first_failure(root: Path, files: tuple[str, ...]) -> str:
    command = ["nice", "-n", str(NICE), sys.executable, "-m", "pytest", "-q", "-x", "-rfE"]
    command += ["--tb=no", "-p", "no:cacheprovider", f"--timeout={TEST_TIMEOUT_S}", *files]
    patient = {"DASK_HA_TEST_SCALE": PATIENCE, "PYTHONPATH": str(root), "PYTHONHASHSEED": "0"}
    environment = {**os.environ, **patient}
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=LAYER_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return "endless"
    if done.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) \S*?::(\S+)", done.stdout, re.M)
    if done.returncode == 1 and found:
        return found[1]
    if "Timeout" in done.stderr:
        return "endless"
    raise AssertionError(f"pytest ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
