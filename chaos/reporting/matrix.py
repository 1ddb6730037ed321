"""The page of a suite: workloads down, faults across, and what all runs say together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from chaos.figures import summary_of
from chaos.reporting.page import TIMELINE, document, seconds, table

Summary = Mapping[str, Any]


def page(results: Mapping[str, Any], summaries: Sequence[Summary]) -> str:
    """``results``: name, about and how many runs were planned."""
    return document(
        f"suite {results['name']}",
        [
            f"<h1>Suite {escape(results['name'])}</h1>",
            f"<p>{escape(results['about'])}</p>",
            _tiles(results, summaries),
            "<h2>Workloads under faults</h2>",
            '<p class="soft">Each mark is a run, and leads to its page: '
            "✓ valid, ✗ a violation, ? unknown.</p>",
            grid(summaries),
            *_findings(summaries),
            "<h2>From a fault until answers come again</h2>",
            recovery_table(summaries),
            "<h2>Without a fault, and with</h2>",
            _latency(summaries),
            f'<p class="soft">{escape(_where(summaries))}</p>',
        ],
    )


def _tiles(results: Mapping[str, Any], summaries: Sequence[Summary]) -> str:
    verdicts = [summary["verdict"] for summary in summaries]
    faults = [fault for summary in summaries for fault in summary["faults"]]
    operations = sum(s["checks"].get("lost", {}).get("operations", 0) for s in summaries)
    lost = sum(s["checks"].get("lost", {}).get("lost", 0) for s in summaries)
    tiles = {
        "runs": f"{len(summaries)} of {results['planned']}",
        "valid": str(verdicts.count("valid")),
        "violations": str(verdicts.count("violation")),
        "unknown": str(verdicts.count("unknown")),
        "operations": f"{operations:,}",
        "without an end": str(lost),
        "faults that fired": f"{sum(bool(f['proof']) for f in faults)} of {len(faults)}",
        "minutes": f"{sum(s['seconds'] for s in summaries) / 60:.0f}",
    }
    inside = "".join(
        f'<div class="tile"><b>{value}</b><span>{name}</span></div>'
        for name, value in tiles.items()
    )
    return f'<div class="tiles">{inside}</div>'


def grid(summaries: Sequence[Summary]) -> str:
    """Workloads down, faults across."""
    found: dict[tuple[str, str], list[Summary]] = defaultdict(list)
    several = len({summary["scenario"]["target"] for summary in summaries}) > 1
    for summary in summaries:
        scenario = summary["scenario"]
        where = f" ({scenario['target']})" if several else ""
        under = " + ".join(scenario["faults"]) or "nothing"
        found[scenario["workload"], under + where].append(summary)
    workloads = list(dict.fromkeys(workload for workload, _ in found))
    faults = sorted({fault for _, fault in found})
    rows = [
        (escape(workload), *(_cell(found.get((workload, fault), ())) for fault in faults))
        for workload in sorted(workloads)
    ]
    return table(("", *map(escape, faults)), rows)


def _cell(runs: Sequence[Summary]) -> str:
    marks = {"valid": "✓", "violation": "✗", "unknown": "?"}
    return (
        "".join(
            f'<a class="cell {run["verdict"]}" href="{escape(run["directory"])}/{TIMELINE}" '
            f'title="seed {run["scenario"]["seed"]}">{marks[run["verdict"]]}</a>'
            for run in runs
        )
        or '<span class="cell none">·</span>'
    )


def _findings(summaries: Sequence[Summary]) -> Iterable[str]:
    rows = [
        (
            f'<a href="{escape(summary["directory"])}/{TIMELINE}">{escape(summary["title"])}</a>',
            f'<span class="cell {finding["verdict"]}">{finding["verdict"]}</span>',
            escape(f"{finding['check']}: {finding['text']}"),
        )
        for summary in summaries
        for finding in summary["findings"]
    ]
    if rows:
        yield "<h2>Findings</h2>"
        yield table(("run", "verdict", "what"), rows)


def recoveries(summaries: Iterable[Summary]) -> dict[str, list[float]]:
    """Seconds from each fault until answers came again, by fault."""
    found: dict[str, list[float]] = defaultdict(list)
    for summary in summaries:
        for one in summary["figures"]["recovery_s"]:
            if one["overlapped"]:
                continue
            found[one["fault"]].append(one["after_s"])
    return dict(sorted(found.items()))


def recovery_table(summaries: Sequence[Summary]) -> str:
    rows = []
    for fault, values in recoveries(summaries).items():
        figures = summary_of(values)
        rows.append(
            (
                escape(fault),
                str(figures["n"]),
                *(seconds(figures[name]) for name in ("p50", "p95", "p99", "max")),
            )
        )
    return table(("fault", "times", "p50", "p95", "p99", "longest"), rows, 5)


def _latency(summaries: Sequence[Summary]) -> str:
    """Medians of the runs' own percentiles: runs differ in load."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for summary in summaries:
        figures = summary["figures"]
        for f, values in figures["latency_s"].items():
            before = figures["baseline_latency_s"].get(f)
            if before and before["p50"] is not None:
                found[summary["scenario"]["workload"], f].append((before["p50"], values["p99"]))
    rows = [
        (
            escape(workload),
            escape(f),
            seconds(summary_of([before for before, _ in pairs])["p50"]),
            seconds(summary_of([during for _, during in pairs])["p50"]),
        )
        for (workload, f), pairs in sorted(found.items())
    ]
    return table(("workload", "what", "median before", "p99 of the whole run"), rows, 2)


def _where(summaries: Sequence[Summary]) -> str:
    if not summaries:
        return ""
    host, versions = summaries[-1]["host"], summaries[-1]["versions"]
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{named}; {host.get('processors')} processors, kernel {host.get('kernel')}"
