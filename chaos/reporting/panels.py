"""The pictures of a run: who did what when, how long it took, who led, and each failover."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from chaos import figures
from chaos.history import Operation
from chaos.record import Record
from chaos.reporting.svg import Panel, ticks

ROW = 26  # pixels of a process
LANES_MAX = 12  # of one client; more overlap
SPANS_MAX = 6000  # operations that are drawn one by one
SLOWEST = 40  # with a title
LATENCY_MIN_S = 0.001
#: Of a change of leader; each ends at its name.
PHASES = ("detected", "elected", "activated", "workers_back", "clients_back", "serving")
BEFORE_S = 2.0  # of the warm-up that is shown


def shading(record: Record) -> list[tuple[float, float, str]]:
    """When which fault was active."""
    began = figures.zero(record)
    last = figures.end(record)
    return [
        (
            fault.at - began,
            (fault.healed - began) if fault.healed is not None else last,
            f"{fault.fault}: {fault.proof or fault.error or 'no proof'}",
        )
        for fault in record.faults
    ]


def _panel(record: Record, height: float, **options: Any) -> Panel:
    panel = Panel(-BEFORE_S, figures.end(record), height, **options)
    panel.shade(shading(record))
    return panel


def timeline(record: Record) -> str:
    """A band for each process: what peers were, what clients did."""
    peers = figures.bands(record)
    clients = _by_client(record)
    rows = len(peers) + len(clients) + 1
    panel = _panel(record, rows * ROW)
    _fault_row(panel, record)
    for n, (peer, bands) in enumerate(peers.items(), start=1):
        top = n * ROW
        panel.label(f"peer {peer}", top + 17)
        for band in bands:
            title = f"{peer} {band.role}, term {band.term}, {band.start:.1f} to {band.end:.1f} s"
            panel.rect(band.role, band.start, band.end, top + 4, ROW - 8, title)
            if band.role == "leader":
                panel.note(f"term {band.term}", band.start, top + 17, "term")
    for n, (client, operations) in enumerate(clients.items(), start=1 + len(peers)):
        panel.label(f"client {client}", n * ROW + 17)
        _client_row(panel, record, operations, n * ROW + 3)
    return panel.render()


def _by_client(record: Record) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = {name: [] for name in sorted(record.facts.clients)}
    for op in record.operations:
        found.setdefault(op.process, []).append(op)
    return found


def _fault_row(panel: Panel, record: Record) -> None:
    panel.label("faults", 17)
    free = [-1e9, -1e9]  # where each of two lines of text has room again
    for (start, end, title), fault in zip(shading(record), record.faults, strict=True):
        panel.rect("fault-bar", start, end, ROW - 4, 3, title)
        line = 0 if free[0] <= start else 1
        if free[line] <= start:
            panel.note(fault.fault, start, 9 + 10 * line)
            free[line] = start + len(fault.fault) * (panel.end - panel.start) / 155


def _client_row(panel: Panel, record: Record, operations: Sequence[Operation], top: float) -> None:
    """Each operation a thin line from its call to its answer, in lanes."""
    began, last = figures.zero(record), figures.end(record)
    lanes = [-1e9] * LANES_MAX
    height = (ROW - 6) / LANES_MAX
    for op in operations[:SPANS_MAX]:
        start = op.start - began
        end = last if op.end is None else op.end - began
        if end < -BEFORE_S:
            continue
        lane = min(range(LANES_MAX), key=lanes.__getitem__)
        lanes[lane] = end
        title = f"{op.f} {op.key}: {op.type}, {end - start:.3f} s {op.error}"
        panel.rect(op.type, start, end, top + lane * height, max(1.0, height - 0.4), title)


def latency(record: Record) -> str:
    """Each answer at the moment when it was asked for, on a logarithmic axis."""
    began = figures.zero(record)
    done = [op for op in record.operations if op.latency_s is not None]
    high = max([0.1, *(op.latency_s or 0.0 for op in done)]) * 1.5
    panel = _panel(record, 190, low=LATENCY_MIN_S, high=high, logarithmic=True)
    marks = [0.001, 0.01, 0.1, 1, 10, 100]
    panel.grid([mark for mark in marks if LATENCY_MIN_S <= mark <= high], " s")
    for type in ("ok", "fail"):
        points = [(op.start - began, op.latency_s or 0.0) for op in done if op.type == type]
        panel.dots(f"{type}-points", points)
    for percent in (50, 99):
        panel.line(f"p{percent}", _quantiles(done, began, percent))
    for op in sorted(done, key=lambda op: op.latency_s or 0.0)[-SLOWEST:]:
        assert op.latency_s is not None
        title = f"{op.f} {op.key}: {op.latency_s:.3f} s"
        panel.dot(op.type, op.start - began, op.latency_s, title)
    return panel.render()


def _quantiles(
    operations: Sequence[Operation], began: float, percent: float
) -> list[tuple[float, float]]:
    """Of those that were asked in each second."""
    bins: dict[int, list[float]] = defaultdict(list)
    for op in operations:
        bins[int(op.start - began)].append(op.latency_s or 0.0)
    found = ((second + 0.5, figures.percentile(bins[second], percent)) for second in sorted(bins))
    return [(second, value) for second, value in found if value is not None]


def throughput(record: Record) -> str:
    """Answers a second."""
    rates = figures.rate(record)
    high = max([1.0, *(rate for _, rate in rates)]) * 1.1
    panel = _panel(record, 110, high=high)
    panel.grid(ticks(0, high, 4), "/s")
    steps = [point for at, rate in rates for point in ((at, rate), (at + figures.BIN_S, rate))]
    panel.line("rate", steps)
    return panel.render()


def failovers(record: Record) -> str:
    """The phases of each change of leader, from when the loss was noticed."""
    entries = [entry for entry in record.failovers if len(_shown(entry)) > 1]
    if not entries:
        return ""
    longest = max(max(_shown(entry).values()) for entry in entries)
    panel = Panel(0.0, longest * 1.12, len(entries) * ROW)
    for n, entry in enumerate(entries):
        panel.label(f"term {entry['term']}: {entry['leader']}", n * ROW + 17)
        before = 0.0
        for phase, at in sorted(_shown(entry).items(), key=lambda item: item[1]):
            title = f"{phase} after {at * 1e3:.0f} ms"
            panel.rect(f"phase-{PHASES.index(phase)}", before, at, n * ROW + 5, ROW - 10, title)
            before = at
        panel.note(f"{before * 1e3:.0f} ms", before, n * ROW + 17)
    return panel.render()


def _shown(entry: dict[str, Any]) -> dict[str, float]:
    """The phases until it serves: the first task may come much later."""
    return {name: at for name, at in entry["phases"].items() if name in PHASES}
