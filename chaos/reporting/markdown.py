"""What several suites say together, as Markdown for ``docs/reliability.md``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chaos.figures import summary_of
from chaos.reporting.matrix import recoveries
from chaos.reporting.page import seconds

Summary = Mapping[str, Any]
MARKS = {"valid": "✓", "violation": "**✗**", "unknown": "?"}


def tables(summaries: Sequence[Summary]) -> str:
    """Counts, the matrix, and the percentiles of recovery."""
    return "\n\n".join((_counts(summaries), _matrix(summaries), _recoveries(summaries))) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _counts(summaries: Sequence[Summary]) -> str:
    faults = [fault for summary in summaries for fault in summary["faults"]]
    checks = [summary["checks"] for summary in summaries]

    def total(check: str, count: str) -> int:
        return sum(each.get(check, {}).get(count, 0) for each in checks)

    verdicts = [summary["verdict"] for summary in summaries]
    rows = {
        "runs": f"{len(summaries)}, of which {verdicts.count('valid')} valid, "
        f"{verdicts.count('violation')} violations, {verdicts.count('unknown')} unknown",
        "faults that fired": f"{sum(bool(f['proof']) for f in faults)} of {len(faults)}",
        "operations": f"{total('lost', 'operations'):,}",
        "operations without an end": str(total("lost", "lost")),
        "values compared with an oracle": f"{total('values', 'compared'):,}",
        "wrong values, failed or cancelled futures": str(
            total("values", "wrong") + total("values", "failed")
        ),
        "executions counted": f"{total('executions', 'executions'):,}",
        "executions again, workers hurt or not": str(total("executions", "again")),
        "calls of coordination objects judged": f"{total('linearizable', 'calls'):,}",
        "minutes": f"{sum(summary['seconds'] for summary in summaries) / 60:.0f}",
    }
    return _table(("", ""), rows.items())


def _matrix(summaries: Sequence[Summary]) -> str:
    found: dict[tuple[str, str], str] = defaultdict(str)
    for summary in summaries:
        scenario = summary["scenario"]
        under = f"`{' '.join(scenario['faults'])}`" if scenario["faults"] else "nothing"
        found[under, scenario["workload"]] += MARKS[summary["verdict"]]
    faults = sorted({fault for fault, _ in found})
    workloads = sorted({workload for _, workload in found})
    rows = [(fault, *(found.get((fault, name), "") for name in workloads)) for fault in faults]
    return _table(("", *workloads), rows)


def _recoveries(summaries: Sequence[Summary]) -> str:
    rows = []
    for fault, values in recoveries(summaries).items():
        figures = summary_of(values)
        percentiles = (seconds(figures[name]) for name in ("p50", "p95", "max"))
        rows.append((f"`{fault}`", str(figures["n"]), *percentiles))
    return _table(("fault", "times", "p50", "p95", "longest"), rows)
