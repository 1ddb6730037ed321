"""One file of upstream's tests with both sets of classes, and what to think of the differences."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.upstream.runner import Results, Workshop

REASONS = Path(__file__).with_name("differences.toml")
TRIES = 2  # how often a difference must show alone, after it has shown in the whole file
DETAIL_LINES = 15  # of what pytest said of a failure
WORDS = ("passed", "failed", "skipped", "xfail")


def load_reasons(in_cell: bool = False, path: Path = REASONS) -> dict[str, str]:
    """Why a test differs on purpose: by ``file::test``, its parameters left out."""
    with path.open("rb") as file:
        entries = tomllib.load(file)
    of_cells = entries.pop("cell")
    if in_cell:
        entries = of_cells
        entries.pop("said")
    return {
        f"{name}::{test}": reason
        for name, tests in entries.items()
        for test, reason in tests.items()
    }


def without_parameters(test: str) -> str:
    """``package/tests/test_a.py::test_b[1]`` as ``test_a.py::test_b``."""
    return test.rsplit("/", 1)[-1].split("[")[0]


@dataclass(frozen=True, slots=True)
class Difference:
    """A test that does with our classes what it does not with the originals."""

    test: str
    original: str
    ours: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one file came to."""

    name: str
    originals: Results
    ours: Results
    differences: tuple[Difference, ...]
    unsteady: tuple[str, ...]

    @property
    def unexplained(self) -> list[Difference]:
        """The defects."""
        return [difference for difference in self.differences if not difference.reason]

    def progress(self) -> str:
        """One line, and what failed of our own."""
        lines = [self._row()]
        for difference in self.unexplained:
            lines.append(f"UNEXPLAINED {difference.test}: {difference.original} originally")
            lines += difference.detail.splitlines()[-DETAIL_LINES:]
        return "\n".join(lines)

    def _row(self) -> str:
        explained = len(self.differences) - len(self.unexplained)
        cells = [
            self.name,
            _counts(self.originals),
            _counts(self.ours),
            str(explained),
            str(len(self.unexplained)),
            str(len(self.unsteady)),
        ]
        return f"| {' | '.join(cells)} |"

    @staticmethod
    def table(comparisons: Iterable[Comparison]) -> str:
        """All files as a table in Markdown, and the differences one by one."""
        comparisons = list(comparisons)
        lines = [
            "Counts are passed / failed / skipped / expected to fail. A test is unsteady if its "
            "outcome differed in the run of the file and not when it ran again alone.",
            "",
            "| file | originals | ours | on purpose | unexplained | unsteady |",
            "|---|---|---|---|---|---|",
            *(comparison._row() for comparison in comparisons),
        ]
        for comparison in comparisons:
            for d in comparison.differences:
                why = d.reason or "UNEXPLAINED"
                lines.append(f"\n- `{d.test}`: {d.original}, with ours {d.ours}. {why}")
            lines += [f"\n- `{test}`: unsteady" for test in comparison.unsteady]
        return "\n".join(lines)


def _counts(results: Results) -> str:
    counts = Counter(outcome.word for outcome in results.values())
    return " / ".join(str(counts[word]) for word in WORDS)


def compare(
    workshop: Workshop, name: str, options: list[str], reasons: Mapping[str, str]
) -> Comparison:
    """Run a file with both sets of classes, then what differs again, alone."""
    path = workshop.path_of(name)
    originals = workshop.run("originals", [path, *options])
    ours = workshop.run("ours", [path, *options])
    suspects = _differing(originals, ours)
    believed = suspects
    for _ in range(TRIES):
        if believed:
            again = _run_alone(workshop, "originals", believed, options)
            again_ours = _run_alone(workshop, "ours", believed, options)
            believed = _differing(again, again_ours)
    differences = tuple(
        Difference(
            test=test,
            original=_word(originals, test),
            ours=_word(ours, test),
            reason=reasons.get(without_parameters(test), ""),
            detail=ours[test].detail if test in ours else "it was not collected",
        )
        for test in believed
    )
    unsteady = tuple(test for test in suspects if test not in believed)
    return Comparison(name, originals, ours, differences, unsteady)


def _run_alone(workshop: Workshop, classes: str, tests: list[str], options: list[str]) -> Results:
    """Run these tests again, without the others of their file."""
    slow = [option for option in options if option == "--runslow"]
    return workshop.run(classes, [*tests, *slow])


def _word(results: Results, test: str) -> str:
    return results[test].word if test in results else "missing"


def _differing(originals: Results, ours: Results) -> list[str]:
    """Tests with other outcomes. One that fails with the originals says nothing of ours."""
    tests = dict.fromkeys([*originals, *ours])
    return [test for test in tests if _word(originals, test) not in ("failed", _word(ours, test))]
