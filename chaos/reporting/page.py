"""The page of one run, and its pictures as files of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from chaos.record import Record
from chaos.reporting import panels
from chaos.reporting.style import PAGE_STYLE, STYLE
from chaos.reporting.svg import standing_alone

TIMELINE = "timeline.html"

_OPERATIONS = (("ok", "answered"), ("fail", "refused or failed"), ("info", "nobody knows"))
_ROLES = (
    ("leader", "leader"),
    ("follower", "follower"),
    ("candidate", "candidate"),
    ("absent", "no answer"),
    ("fault", "fault"),
)


def write(record: Record, summary: Mapping[str, Any]) -> None:
    """All files of the report but ``summary.json``."""
    pictures = {
        "latency.svg": panels.latency(record),
        "throughput.svg": panels.throughput(record),
        "leaders.svg": panels.timeline(record),
        "failovers.svg": panels.failovers(record),
    }
    for name, picture in pictures.items():
        if picture:
            (record.directory / name).write_text(standing_alone(picture, STYLE))
    (record.directory / TIMELINE).write_text(page(record, summary, pictures))


def page(record: Record, summary: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    verdict = summary["verdict"]
    return document(
        f"{verdict}: {summary['title']}",
        [
            f'<p><span class="badge {verdict}">{verdict}</span></p>',
            f"<h1>{escape(summary['title'])}</h1>",
            f'<p class="soft">{escape(_where(record))}</p>',
            _tiles(record, summary),
            _findings(summary),
            "<h2>Who did what when</h2>",
            _legend(_ROLES),
            pictures["leaders.svg"],
            "<h2>How long each answer took</h2>",
            _legend(_OPERATIONS, " · lines: median, and the 99th percentile of each second"),
            pictures["latency.svg"],
            "<h2>Answers per second</h2>",
            pictures["throughput.svg"],
            *_failovers(record, pictures),
            _faults(record, summary),
            _checks(summary),
            "<h2>Again</h2>",
            f"<pre>{escape(summary['reproduce'])}</pre>",
            _files(record),
        ],
    )


def document(title: str, parts: Iterable[str]) -> str:
    """A page without anything from elsewhere."""
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{PAGE_STYLE}</style></head>"
        f"<body>\n{body}\n</body></html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """``rows`` are HTML; the last ``numbers`` columns are to the right."""
    first = len(head) - numbers

    def cells(tag: str, words: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if n >= first else ''}>{word}</{tag}>"
            for n, word in enumerate(words)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells("th", head)}</tr>{body}</table></div>'


def seconds(value: float | None) -> str:
    """For people."""
    if value is None:
        return "-"
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.2f} s"


def _where(record: Record) -> str:
    scenario, facts = record.scenario, record.facts
    versions = ", ".join(f"{name} {number}" for name, number in facts.versions.items())
    return (
        f"{scenario.target}, {_number(facts.peers, 'peer')}, "
        f"{_number(facts.workers, 'worker')}, seed {scenario.seed}; {versions}; "
        f"{facts.host.get('processors')} processors"
    )


def _number(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"


def _tiles(record: Record, summary: Mapping[str, Any]) -> str:
    types = [op.type for op in record.operations]
    recoveries = [o["after_s"] for o in summary["figures"]["recovery_s"] if not o["overlapped"]]
    worst = max(recoveries, default=None)
    tiles = {
        "operations": f"{len(types)}",
        "answered": f"{types.count('ok')}",
        "without an end": f"{types.count('info')}",
        "faults that fired": f"{sum(bool(f.proof) for f in record.faults)} of {len(record.faults)}",
        "longest until answers again": seconds(worst),
        "changes of leader": f"{max(0, len(record.failovers) - 1)}",
        "run more than once": f"{summary['checks'].get('executions', {}).get('again', '-')}",
    }
    inside = "".join(
        f'<div class="tile"><b>{v}</b><span>{n}</span></div>' for n, v in tiles.items()
    )
    return f'<div class="tiles">{inside}</div>'


def _legend(keys: Iterable[tuple[str, str]], more: str = "") -> str:
    words = "".join(f'<i class="key-{key}"></i>{word}' for key, word in keys)
    return f'<p class="legend">{words}{more}</p>'


def _findings(summary: Mapping[str, Any]) -> str:
    if not summary["findings"]:
        return '<p class="soft">No checker found anything.</p>'
    rows = [
        (
            f'<span class="cell {finding["verdict"]}">{finding["verdict"]}</span>',
            escape(finding["check"]),
            escape(finding["text"]),
        )
        for finding in summary["findings"]
    ]
    return "<h2>Findings</h2>" + table(("verdict", "checker", "what"), rows)


def _failovers(record: Record, pictures: Mapping[str, str]) -> Sequence[str]:
    if not pictures["failovers.svg"]:
        return ()
    keys = [(f"phase phase-{n}", name.replace("_", " ")) for n, name in enumerate(panels.PHASES)]
    return (
        "<h2>Phases of each change of leader</h2>",
        "<p>From the moment when a successor noticed the loss until it serves.</p>",
        _legend(keys, " (each phase ends so)"),
        pictures["failovers.svg"],
    )


def _faults(record: Record, summary: Mapping[str, Any]) -> str:
    if not record.faults:
        return ""
    after = {(one["fault"], one["at_s"]): one for one in summary["figures"]["recovery_s"]}
    began = record.facts.phases.get("baseline", record.facts.began)
    rows = []
    for fault in record.faults:
        at = round(fault.at - began, 3)
        one = after.get((fault.fault, at), {})
        lasted = fault.healed - fault.at if fault.healed is not None else None
        rows.append(
            (
                escape(fault.fault),
                escape(fault.proof or f"did not fire: {fault.error or 'no proof'}"),
                f"{at:.1f} s",
                seconds(lasted),
                seconds(one.get("after_s")) + (" (overlapped)" if one.get("overlapped") else ""),
                seconds(one.get("stall_s")),
            )
        )
    head = ("fault", "how one can tell", "at", "lasted", "answers again", "longest stall")
    return "<h2>Faults</h2>" + table(head, rows, 4)


def _checks(summary: Mapping[str, Any]) -> str:
    rows = []
    for name, counts in summary["checks"].items():
        words = "; ".join(
            f"{key} {short(value)}" for key, value in counts.items() if key != "verdict"
        )
        verdict = counts["verdict"]
        rows.append((f'<span class="cell {verdict}">{verdict}</span>', escape(name), escape(words)))
    return "<h2>What was checked</h2>" + table(("verdict", "checker", "counts"), rows)


def short(value: Any) -> str:
    """A count for people."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {short(item)}" for key, item in value.items())
    return str(value)


def _files(record: Record) -> str:
    names = sorted(
        str(path.relative_to(record.directory))
        for pattern in ("*.json", "*.ndjson", "*.toml", "*.svg", "logs/*.log", "clients/*.log")
        for path in record.directory.glob(pattern)
    )
    links = " · ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in names)
    return f"<h2>Files</h2><p>{links}</p>"
