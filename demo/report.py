"""What happened, for a person: both failovers with their phases and times, then the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.scenario import Blow
from demo.tally import Count

WINDOW_S = 2.0  # after a blow: where its pause is looked for
EXAMPLES_MAX = 5  # of what went wrong; the rest is counted


@dataclass(frozen=True, slots=True)
class Verdict:
    """The numbers that must all be as promised."""

    compared: int
    differences: list[str]
    lost: list[str]
    more_than_once: Mapping[str, int]
    executions: int
    workers_restarted: int
    failovers_seen: int
    failovers_expected: int

    @property
    def holds(self) -> bool:
        """Whether everything that was promised held."""
        return not (
            self.differences or self.lost or self.more_than_once or self.workers_restarted
        ) and (self.failovers_seen >= self.failovers_expected)


def print_timeline(
    console: Console, blows: Sequence[Blow], history: Sequence[Mapping[str, Any]], count: Count
) -> int:
    """Each blow with the change of leader that answered it. Returns how many were answered."""
    answered = 0
    for blow, until in zip(blows, [*(b.at for b in blows[1:]), float("inf")], strict=True):
        failovers = [entry for entry in history if blow.at <= entry["started"] < until]
        table = Table(title=f"kill -9: {blow.what}", title_justify="left", width=80)
        table.add_column("after the kill", justify="right")
        table.add_column("what")
        for entry in failovers[:1]:
            answered += 1
            offset = entry["started"] - blow.at
            for phase, after in sorted(entry["phases"].items(), key=lambda item: item[1]):
                detail = _detail(entry["details"].get(phase))
                table.add_row(f"{(offset + after) * 1000:.0f} ms", f"{_words(phase)}{detail}")
            table.caption = (
                f"peer {entry['leader']} leads in term {entry['term']}; the longest time without "
                f"a finished task was {count.pause_after(blow.at, WINDOW_S) * 1000:.0f} ms"
            )
        if not failovers:
            table.add_row("-", "no peer reported a change of leader", style="red")
        console.print(table)
    return answered


def print_verdict(console: Console, verdict: Verdict) -> None:
    """One line for each promise."""
    table = Table(show_header=False, width=80)
    rows = [
        ("results that differ from pandas", verdict.differences, f"of {verdict.compared}"),
        ("futures lost", verdict.lost, ""),
        (
            "tasks executed more than once",
            [f"{key}: {times} times" for key, times in verdict.more_than_once.items()],
            f"of {verdict.executions}",
        ),
    ]
    for what, wrong, of in rows:
        table.add_row(what, f"{len(wrong)} {of}", style="red" if wrong else "green")
    restarted = verdict.workers_restarted
    table.add_row("workers restarted", str(restarted), style="red" if restarted else "green")
    console.print(table)
    for what, wrong, _ in rows:
        for example in wrong[:EXAMPLES_MAX]:
            console.print(f"[red]{what}:[/red] {example}", highlight=False)
    console.print("[bold green]All of it held." if verdict.holds else "[bold red]It did NOT hold.")


def _words(phase: str) -> str:
    return phase.replace("_", " ").replace("-", " ")


def _detail(detail: Mapping[str, Any] | None) -> str:
    if not detail:
        return ""
    return " (" + ", ".join(f"{_words(name)}: {value}" for name, value in detail.items()) + ")"
