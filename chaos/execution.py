"""A scenario from its beginning to its report, as ``run``, ``suite`` and ``replay`` do it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos import record
from chaos.checkers.judge import judge, summarize
from chaos.reporting import page
from chaos.runner import Runner
from chaos.scenario import Scenario
from chaos.targets.registry import make


def execute(
    scenario: Scenario, directory: Path, say: Callable[[str], None], *, keep: bool = False
) -> dict[str, Any]:
    """Run it, judge it, report it; the summary. ``keep``: the cell's data of a valid run too."""
    directory.mkdir(parents=True, exist_ok=True)
    root = directory / record.CELL
    Runner(scenario, make(scenario, root), directory, say).run()
    summary = rejudge(directory)
    if summary["verdict"] != "violation" and not keep:
        shutil.rmtree(root, ignore_errors=True)
    return summary


def rejudge(directory: Path) -> dict[str, Any]:
    """Judge a run that is over with today's checkers, and report it anew."""
    opened = record.open_record(directory)
    summary = summarize(opened, judge(opened))
    page.write(opened, summary)
    return summary


def new_directory(store: Path, scenario: Scenario) -> Path:
    """Of a run, by its scenario."""
    return made(store, scenario.slug, scenario.seed)


def made(store: Path, name: str, seed: int) -> Path:
    """A directory by name, seed and moment; ``latest`` in ``store`` leads to it."""
    moment = time.strftime("%Y%m%dT%H%M%S")
    directory = (store / name / f"{seed}-{moment}").absolute()
    directory.mkdir(parents=True)
    latest = store.absolute() / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(directory)
    return directory
