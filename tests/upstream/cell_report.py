"""What became of upstream's tests in cells that lose their leader, file by file.

What fails has a reason in ``differences.toml``: by the test, or by what the failure says, for what
any test may meet depending on the moment. What has none runs twice more, alone: with the blow, and
without any. So a report says whether it was the loss of the leader, or the cell, that the test does
not bear.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tests.upstream.compare import DETAIL_LINES, REASONS, load_reasons, without_parameters
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
        if self.reason:
            return ["", line + self.reason]
        line += f"UNEXPLAINED. Again, alone: {self.again}; without a blow: {self.unharmed}."
        shown = self.first.detail.splitlines()[-DETAIL_LINES:]
        return ["", line, "", *(f"      {line}" for line in shown)]


class Reasons:
    """What ``differences.toml`` says of failures in a cell."""

    def __init__(self) -> None:
        self._of_tests = load_reasons(in_cell=True)
        self._said: dict[str, str] = tomllib.loads(REASONS.read_text())["cell"]["said"]

    def find(self, test: str, outcome: Outcome) -> str:
        """Why a test failed, or nothing."""
        for words, reason in self._said.items():
            if words in outcome.detail:
                return reason
        return self._of_tests.get(without_parameters(test), "")


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
    workshop: Workshop, name: str, options: list[str], reasons: Reasons, after: int | None
) -> CellReport:
    """Run a file in cells whose leader dies after the message ``after``, or when the seed says."""
    results = workshop.run("cell", [workshop.path_of(name), *options], after)
    failed = {test: outcome for test, outcome in results.items() if outcome.word == "failed"}
    why = {test: reasons.find(test, outcome) for test, outcome in failed.items()}
    suspects = [test for test, reason in why.items() if not reason]
    suspects += [option for option in options if suspects and option == "--runslow"]
    again = workshop.run("cell", suspects, after) if suspects else {}
    unharmed = workshop.run("cell", suspects, 0) if suspects else {}
    failures = tuple(
        Failure(test, outcome, _word(again, test), _word(unharmed, test), why[test])
        for test, outcome in failed.items()
    )
    return CellReport(name, results, failures)


def _word(results: Results, test: str) -> str:
    return results[test].word if test in results else ""


def _column(outcome: Outcome) -> str:
    if outcome.word != "skipped":
        return outcome.word
    for beginning, column in SKIPPED.items():
        if outcome.detail.startswith(beginning):
            return column
    return "upstream skips"
