"""Which branches of the core and of the store's log code a sample of worlds has taken.

A number for how much the worlds can reach, and a list of what they never do: each line of it is a
question, whether the world lacks something or the code is not needed. It is measured by
``coverage`` in a sample, because tracing makes a world several times slower.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import coverage

from chaos.simulation.run import run_seed

ROOT = Path(__file__).resolve().parents[2]
MEASURED = (
    "ha_scheduler/raft/*",
    "ha_scheduler/storage/transactional.py",
    "ha_scheduler/storage/log_table.py",
    "ha_scheduler/storage/log_view.py",
    "ha_scheduler/storage/lmdb_tables.py",
    "ha_scheduler/storage/applying.py",
    "ha_scheduler/storage/schema.py",
    "ha_scheduler/storage/port.py",
    "ha_scheduler/peer/consensus/driver.py",
    "ha_scheduler/peer/consensus/lease.py",
)


@dataclass(frozen=True, slots=True)
class Branches:
    """What a sample took of all branches."""

    taken: int
    all: int
    #: File → branches never taken, each "from line -> to line" (0: out of the function).
    missed: dict[str, list[str]]

    def __str__(self) -> str:
        share = 100.0 * self.taken / max(self.all, 1)
        lines = [f"branches taken: {self.taken} of {self.all} ({share:.1f} %); never:"]
        lines += [f"  {file}: {', '.join(arcs)}" for file, arcs in self.missed.items() if arcs]
        return "\n".join(lines)


def measure(seeds: Iterable[int], *, safety_s: float) -> Branches:
    """Play these seeds under ``coverage``."""
    measured = coverage.Coverage(
        branch=True, data_file=None, include=[str(ROOT / path) for path in MEASURED]
    )
    with measured.collect():
        for seed in seeds:
            run_seed(seed, safety_s=safety_s)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "branches.json")
        measured.json_report(outfile=str(path))
        report = json.loads(path.read_text())
    totals = report["totals"]
    missed = {
        str(Path(file).resolve().relative_to(ROOT)): [
            f"{a}→{max(b, 0)}" for a, b in found["missing_branches"]
        ]
        for file, found in report["files"].items()
    }
    return Branches(totals["covered_branches"], totals["num_branches"], missed)
