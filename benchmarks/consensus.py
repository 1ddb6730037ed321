"""Commit latency and throughput of the daemons, against the disk's own latency and against etcd.

    scripts/install-benchmark-packages && pip install '.[benchmark]'
    python -m benchmarks.consensus --directory /a/directory/on/the/disk

Three real daemons with TLS on loopback, the leader's engine keeps one or more payloads in flight
(``load_engine.py``); then three members of etcd with TLS, and one gRPC client that does the same
(``etcd_cell.py``). Everything in one run, on one disk. Before each row one process appends 4 KiB
and calls ``fdatasync``, again and again: what a commit costs that is nothing but durable.

A latency is from the proposal to the moment its proposer knows that it has committed. CPU is that
of one process for one payload. Of several rounds the medians are printed. The exit status is 1 if
any engine was not told of everything that was acknowledged.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.figures import percentile
from benchmarks.load_cell import LoadCell

LOADS = (
    (200, 1),
    (200, 64),
    (10_000, 1),
    (10_000, 64),
    (1_000_000, 1),
    (1_000_000, 8),
    (100_000_000, 1),
)
LEAST = 3  # payloads of a row, however long they take
SYNCS = 300  # of the raw disk, before each row
SYNC_BYTES = 4096
LEDGER_BYTES = 64 * 1024 * 1024  # payloads replace each other above it
NAMES_MAX = 1000
TITLES = (
    *("payload", "in flight", "", "payloads/s", "MB/s", "p50 ms", "p99 ms", "p50 / fdatasync"),
    *("CPU leader µs", "CPU follower µs", "CPU proposer µs"),
)
FIGURES = ("rate", "p50", "p99", "leader_cpu", "follower_cpu", "engine_cpu")

Row = dict[str, float]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="on the disk to measure; default: TMPDIR")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, help="only rows with payloads of this size")
    parser.add_argument("--without-etcd", action="store_true")
    return parser.parse_args()


def raw_syncs(under: Path | None) -> list[float]:
    """Seconds of each append and ``fdatasync``."""
    data, took = os.urandom(SYNC_BYTES), []
    with tempfile.TemporaryFile(dir=under) as file:
        for _ in range(SYNCS):
            began = time.monotonic()
            os.write(file.fileno(), data)
            os.fdatasync(file.fileno())
            took.append(time.monotonic() - began)
    return took


def measure(cell: Any, size: int, outstanding: int, seconds: float) -> Row:
    names = max(2, min(NAMES_MAX, LEDGER_BYTES // size))
    cell.load(size=size, outstanding=outstanding, seconds=seconds / 5, least=1, names=names)
    result = cell.load(
        size=size, outstanding=outstanding, seconds=seconds, least=LEAST, names=names
    )
    count = result["payloads"]
    row = {name: result[name] for name in ("p50", "p99")}
    row |= {name: result[name] / count for name in ("leader_cpu", "follower_cpu", "engine_cpu")}
    return {**row, "rate": count / result["seconds"]}


class Figures:
    """What was measured, of all rounds."""

    def __init__(self) -> None:
        self.syncs: list[float] = []
        self.rows: dict[tuple[str, int, int], list[Row]] = defaultdict(list)
        self.refused: dict[tuple[int, int], str] = {}

    def medians(self, who: str, size: int, outstanding: int) -> Row | None:
        rows = self.rows.get((who, size, outstanding))
        if not rows:
            return None
        return {name: statistics.median(row[name] for row in rows) for name in FIGURES}


def run_ours(figures: Figures, options: argparse.Namespace, loads: list[tuple[int, int]]) -> None:
    with LoadCell(options.directory) as cell:
        for size, outstanding in loads:
            figures.syncs += raw_syncs(options.directory)
            row = measure(cell, size, outstanding, options.seconds)
            figures.rows["ours", size, outstanding].append(row)
            progress("ours", size, outstanding, row)


def run_etcd(figures: Figures, options: argparse.Namespace, loads: list[tuple[int, int]]) -> None:
    from benchmarks.etcd_cell import EtcdCell, RefusedError

    with EtcdCell(options.directory) as cell:
        for size, outstanding in loads:
            figures.syncs += raw_syncs(options.directory)
            try:
                row = measure(cell, size, outstanding, options.seconds)
            except RefusedError as error:
                figures.refused[size, outstanding] = str(error)
                print(f"etcd refuses {size} bytes: {error}", file=sys.stderr)
                continue
            figures.rows["etcd", size, outstanding].append(row)
            progress("etcd", size, outstanding, row)


def progress(who: str, size: int, outstanding: int, row: Row) -> None:
    figures = "  ".join(f"{name} {row[name]:.6g}" for name in FIGURES)
    print(f"{who} {size} x{outstanding}: {figures}", file=sys.stderr, flush=True)


def report(figures: Figures, loads: list[tuple[int, int]]) -> None:
    sync = percentile(figures.syncs, 0.5)
    sync_p99 = percentile(figures.syncs, 0.99)
    print(f"\nOne append of {SYNC_BYTES} bytes with `fdatasync`: ", end="")
    print(f"p50 {sync * 1e3:.2f} ms, p99 {sync_p99 * 1e3:.2f} ms.\n")
    print("| " + " | ".join(TITLES) + " |")
    print("|" + "---|" * len(TITLES))
    for size, outstanding in loads:
        ours = figures.medians("ours", size, outstanding)
        etcd = figures.medians("etcd", size, outstanding)
        for who, row in (("ours", ours), ("etcd", etcd)):
            if row is not None:
                print_row(f"{size:,} B | {outstanding} | {who}", size, row, sync)
            elif who == "etcd" and (size, outstanding) in figures.refused:
                why = figures.refused[size, outstanding]
                print(f"| {size:,} B | {outstanding} | etcd | refused: {why} |" + " |" * 7)
        if ours and etcd:
            print(f"| | | **ratio** | **{ours['rate'] / etcd['rate']:.2f}** | | ", end="")
            print(f"{ours['p50'] / etcd['p50']:.2f} | {ours['p99'] / etcd['p99']:.2f} | | ", end="")
            ratios = (ours[name] / max(etcd[name], 1e-9) for name in FIGURES[3:])
            print(" | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")


def print_row(title: str, size: int, row: Row, sync: float) -> None:
    digits = 0 if row["rate"] >= 100 else 2
    print(f"| {title} | {row['rate']:,.{digits}f} | {row['rate'] * size / 1e6:.1f} | ", end="")
    print(f"{row['p50'] * 1e3:.2f} | {row['p99'] * 1e3:.2f} | {row['p50'] / sync:.1f} | ", end="")
    print(" | ".join(f"{row[name] * 1e6:,.0f}" for name in FIGURES[3:]) + " |")


def main() -> int:
    options = arguments()
    loads = [load for load in LOADS if options.size in (None, load[0])]
    figures = Figures()
    for _ in range(options.rounds):
        try:
            run_ours(figures, options, loads)
        except (RuntimeError, TimeoutError) as error:
            print(f"LOST: {error}", file=sys.stderr)
            return 1
        if not options.without_etcd:
            run_etcd(figures, options, loads)
    report(figures, loads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
