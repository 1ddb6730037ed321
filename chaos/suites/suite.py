"""A suite: its scenarios by file and seed, and the run of all of them, which can be gone on with.

Guarantee: file and seed decide the scenarios and their order. A run that has been judged is not run
again in the same directory, so a suite that was interrupted goes on where it was; within its budget
of time the scenarios come in an order that has every workload and every fault early.

A file has ``about``, ``budget_s``, ``defaults`` for all its scenarios, ``runs`` (single ones) and
``matrices``: each workload of ``workloads`` under each of ``faults``, but for ``except`` (pairs).
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from chaos import guard
from chaos.checkers.base import Verdict, worst
from chaos.execution import execute, rejudge
from chaos.record import SUMMARY
from chaos.reporting import matrix
from chaos.scenario import BadScenario, Scenario, from_mapping, read_toml
from chaos.targets.registry import cell_of, is_owned
from chaos.workloads.registry import unavailable, workload

HERE = Path(__file__).parent
RESULTS = "suite.json"


@dataclass(frozen=True, slots=True)
class Suite:
    """``scenarios`` in the order in which they are run."""

    name: str
    about: str
    budget_s: float
    scenarios: tuple[Scenario, ...]


def known() -> list[str]:
    """The suites that come with the harness."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def load(name: str, seed: int) -> Suite:
    """One that comes with the harness, by its name, or any file. Raises ``BadScenario``."""
    path = HERE / f"{name}.toml" if name in known() else Path(name)
    if not path.exists():
        raise BadScenario(f"There is no suite {name!r}; there are: {', '.join(known())}.")
    values = read_toml(path)
    defaults = values.get("defaults", {})
    single = [from_mapping({"seed": seed, **defaults, **run}) for run in values.get("runs", ())]
    made = [scenario for m in values.get("matrices", ()) for scenario in _matrix(defaults, m, seed)]
    Random(f"{seed} suite").shuffle(made)
    return Suite(
        path.stem,
        values.get("about", ""),
        float(values.get("budget_s", 24 * 3600)),
        (*single, *spread(made)),
    )


def _matrix(
    defaults: Mapping[str, Any], values: Mapping[str, Any], seed: int
) -> Iterator[Scenario]:
    """The seed of a scenario is its own: no two have the same schedule."""
    common = {k: v for k, v in values.items() if k not in ("workloads", "faults", "except")}
    excluded = {tuple(pair) for pair in values.get("except", ())}
    for name in values["workloads"]:
        for fault in values["faults"]:
            if (name, fault) not in excluded:
                own = Random(f"{seed} {name} {fault}").randrange(1_000_000)
                fields = {**defaults, **common, "workload": name, "seed": own}
                yield from_mapping(
                    {**fields, "faults": [word for word in fault.split(",") if word]}
                )


def spread(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """In an order in which no fault comes again before all have come, and likewise workloads."""
    left, found = list(scenarios), []
    seen: Counter[str] = Counter()

    def often(scenario: Scenario) -> tuple[int, int]:
        return sum(seen[fault] for fault in scenario.faults), seen[scenario.workload]

    while left:
        chosen = min(left, key=often)
        left.remove(chosen)
        found.append(chosen)
        seen.update((chosen.workload, *chosen.faults))
    return found


def run(
    suite: Suite,
    directory: Path,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Run what has not been run, as long as the budget lasts; the worst verdict of all."""
    began = clock()
    for number, scenario in enumerate(suite.scenarios):
        place = directory / f"{number:03d}-{scenario.slug}"
        if (place / SUMMARY).exists():
            continue
        if clock() - began > suite.budget_s:
            say(f"the budget of {suite.budget_s:.0f} s is used up")
            break
        why = unavailable(workload(scenario.workload))
        if why is not None:
            say(f"{scenario.title}: left out: {why}")
            continue
        guard.check(scenario, owned=is_owned(scenario.target), cell=cell_of(scenario.target))
        shutil.rmtree(place, ignore_errors=True)  # what an interrupted run has left
        summary = execute(scenario, place, lambda line: None)
        say(f"{clock() - began:6.0f} s  {summary['verdict']:<9} {scenario.title}: {place.name}")
        for finding in summary["findings"]:
            say(f"          {finding['check']}: {finding['text']}")
        write(suite, directory)
    write(suite, directory)
    return worst(summary["verdict"] for summary in summaries(directory))


def write(suite: Suite, directory: Path) -> Path:
    """The page of the suite, and its results for programs."""
    found = list(summaries(directory))
    results = {"name": suite.name, "about": suite.about, "planned": len(suite.scenarios)}
    return _write(directory, results, found)


def is_one(directory: Path) -> bool:
    """Whether a suite has been run there."""
    return (directory / RESULTS).exists()


def rewrite(directory: Path) -> Path:
    """Judge all its runs anew, and write its page."""
    results = json.loads((directory / RESULTS).read_text())
    for path in sorted(directory.glob(f"*/{SUMMARY}")):
        rejudge(path.parent)
    kept = {name: results[name] for name in ("name", "about", "planned")}
    return _write(directory, kept, list(summaries(directory)))


def _write(directory: Path, results: dict[str, Any], found: Sequence[dict[str, Any]]) -> Path:
    whole = results | {"counts": counts(found), "runs": [_line(s) for s in found]}
    (directory / RESULTS).write_text(json.dumps(whole, indent=1))
    where = directory.absolute() / "index.html"
    where.write_text(matrix.page(results, found))
    return where


def summaries(directory: Path) -> Iterator[dict[str, Any]]:
    """Of all runs that were judged, each with the name of its directory."""
    for path in sorted(directory.glob(f"*/{SUMMARY}")):
        yield {**json.loads(path.read_text()), "directory": path.parent.name}


def counts(found: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Runs by verdict."""
    verdicts = [summary["verdict"] for summary in found]
    return {name: verdicts.count(name) for name in ("valid", "violation", "unknown")}


def _line(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {name: summary[name] for name in ("directory", "title", "verdict", "reproduce")}
