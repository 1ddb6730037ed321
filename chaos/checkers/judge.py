"""All checkers on one run, and the summary of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from chaos.checkers import answers, health, leaders, safeguards, vacuity
from chaos.checkers.base import Checker, Result, Verdict, worst
from chaos.checkers.linearizability import checker as linearizability
from chaos.figures import figures
from chaos.record import SUMMARY, Record, write_json
from chaos.scenario import command

CHECKERS: tuple[Checker, ...] = (
    *answers.CHECKERS,
    *linearizability.CHECKERS,
    *leaders.CHECKERS,
    *health.CHECKERS,
    *safeguards.CHECKERS,
    *vacuity.CHECKERS,
)

EXIT: dict[Verdict, int] = {"valid": 0, "violation": 1, "unknown": 2}


def judge(record: Record) -> Sequence[Result]:
    """Of each checker that has something to say."""
    found = (checker(record) for checker in CHECKERS)
    return [result for result in found if result is not None]


def verdict(results: Sequence[Result]) -> Verdict:
    return worst(result.verdict for result in results)


def summarize(record: Record, results: Sequence[Result]) -> dict[str, Any]:
    """As ``summary.json``, which this writes."""
    facts = record.facts
    summary = {
        "verdict": verdict(results),
        "title": record.scenario.title,
        "reproduce": command(record.scenario),
        "findings": [
            {"check": result.name, "verdict": finding.verdict, "text": finding.text}
            for result in results
            for finding in result.findings
        ],
        "checks": {result.name: {"verdict": result.verdict, **result.counts} for result in results},
        "seconds": facts.phases.get("collect", facts.began) - facts.began,
        "settled_s": facts.settled_s,
        "figures": figures(record),
        "faults": msgspec.to_builtins(record.faults),
        "versions": facts.versions,
        "host": facts.host,
        "scenario": msgspec.to_builtins(record.scenario),
    }
    write_json(record.directory / SUMMARY, summary)
    return summary
