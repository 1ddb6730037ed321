"""What became of upstream's tests in cells that lose their leader, file by file.

What fails runs twice more, alone: with the blow, and without any. So a report says whether it was
the loss of the leader, or the cell, that the test does not bear.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.upstream.compare import DETAIL_LINES, without_parameters
from tests.upstream.runner import Outcome, Results, Workshop

#: Why tests are skipped, by how the reason begins; any other reason is upstream's.
SKIPPED = {
    "looks into the scheduler": "looks inside",
    "gives the scheduler arguments": "own scheduler",
    "has certificates of its own": "own scheduler",
    "takes no cluster": "own scheduler",
    "it was over before the blow": "not hit",
}
COLUMNS = (
    "passed",
    "failed",
    "looks inside",
    "own scheduler",
    "not hit",
    "upstream skips",
    "xfail",
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A test that failed, and what it did alone."""

    test: str
    first: Outcome
    again: str
    unharmed: str
    reason: str

    def lines(self) -> list[str]:
        """For a report in Markdown."""
        line = f"- `{without_parameters(self.test)}`: {self.first.blow}. "
        line += f"Again, alone: {self.again}; without a blow: {self.unharmed}. "
        lines = ["", line + (self.reason or "UNEXPLAINED")]
        if not self.reason:
            shown = self.first.detail.splitlines()[-DETAIL_LINES:]
            lines += ["", *(f"      {line}" for line in shown)]
        return lines


@dataclass(frozen=True, slots=True)
class CellReport:
    """What one file came to."""

    name: str
    results: Results
    failures: tuple[Failure, ...]

    @property
    def unexplained(self) -> list[Failure]:
        """The failures that nobody has given a reason for."""
        return [failure for failure in self.failures if not failure.reason]

    def row(self) -> str:
        """The file's line of the table."""
        counts = Counter(_column(outcome) for outcome in self.results.values())
        cells = [str(counts[column]) for column in COLUMNS]
        return f"| {' | '.join([self.name, *cells, str(len(self.unexplained))])} |"

    @staticmethod
    def table(reports: Iterable[CellReport]) -> str:
        """All files as a table in Markdown, and the failures one by one."""
        reports = list(reports)
        heads = ["file", *COLUMNS, "unexplained"]
        lines = [
            "A test that passed had its leader killed before it was over.",
            "",
            f"| {' | '.join(heads)} |",
            f"|{'---|' * len(heads)}",
            *(report.row() for report in reports),
        ]
        for report in reports:
            for failure in report.failures:
                lines += failure.lines()
        return "\n".join(lines)


def run_in_cell(
    workshop: Workshop,
    name: str,
    options: list[str],
    reasons: Mapping[str, str],
    after: int | None,
) -> CellReport:
    """Run a file in cells whose leader dies after the message ``after``, or when the seed says."""
    results = workshop.run("cell", [workshop.path_of(name), *options], after)
    failed = {test: outcome for test, outcome in results.items() if outcome.word == "failed"}
    slow = [option for option in options if option == "--runslow"]
    again: Results = {}
    unharmed: Results = {}
    if failed:
        again = workshop.run("cell", [*failed, *slow], after)
        unharmed = workshop.run("cell", [*failed, *slow], 0)
    failures = tuple(
        Failure(
            test,
            outcome,
            again[test].word,
            unharmed[test].word,
            reasons.get(without_parameters(test), ""),
        )
        for test, outcome in failed.items()
    )
    return CellReport(name, results, failures)


def _column(outcome: Outcome) -> str:
    if outcome.word != "skipped":
        return outcome.word
    for beginning, column in SKIPPED.items():
        if outcome.detail.startswith(beginning):
            return column
    return "upstream skips"
