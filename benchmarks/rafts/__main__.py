"""Our peers and the other Rafts for Python in the same commits and the same kills.

    pip install '.[benchmark]' && pip install --no-deps pyraft==1.0.0
    python -m benchmarks.rafts commits
    python -m benchmarks.rafts kills
    python -m benchmarks.rafts compaction
    python -m benchmarks.rafts large

Three processes on loopback each; ours are real daemons with TLS and LMDB, and an engine each
(``load_engine.py``). The client is in the leader's process, with ours in its engine.

``commits``: small entries, one at a time and 64 in flight, against one append with ``fdatasync``
of the same run, and how often the disk was told to flush meanwhile (the kernel's count, so of the
whole machine). ``kills``: the leader gets ``kill -9`` again and again under load, 0.2 s after both
others were frozen, so that it has entries of its own. ``compaction``: all three get it at once,
while they compact their logs, with 40 MB of state. ``large``: entries of 10 MB.

An entry is lost if it was acknowledged and the leader does not have it: at the end of the kills,
and after all three were killed and restarted once more. A cell is wedged if it does not start, or
if nothing commits within 30 s, and again within 30 s after all three were killed and restarted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.consensus import measure, raw_syncs
from benchmarks.figures import percentile
from benchmarks.load_cell import LoadCell
from benchmarks.rafts.client import STALL_S, Client
from benchmarks.rafts.kills import BETWEEN, Outcome, kill_all, kill_leaders
from benchmarks.rafts.libraries import LIBRARIES
from benchmarks.rafts.node import LibraryCell

OURS = "ours"
LOADS = ((200, 1), (200, 64))
WHAT_DIES = {"with what they forked": True, "processes only": False}
LIMITS = {"ENTRIES_MAX": 2_000, "KEEP_ENTRIES": 500}  # entries before a log is compacted
LARGE = {"size": 10_000_000, "outstanding": 1, "count": 1, "names": 2, "seconds": 0}
LARGE_COUNT = 3

_T = TypeVar("_T")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--only", nargs="+", default=[OURS, *LIBRARIES], metavar="LIBRARY")
    parser.add_argument("--directory", type=Path, help="on the disk to use; default: TMPDIR")
    parser.add_argument("--cells", type=int, default=3, help="of each library, in turn")
    parser.add_argument("--kills", type=int, default=20, help="in each cell")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load of `commits`")
    return parser.parse_args()


def installed(library: str) -> bool:
    return library == OURS or importlib.util.find_spec(library.partition("-")[0]) is not None


def new_cell(library: str, under: Path | None, limits: dict[str, int]) -> LoadCell:
    if library == OURS:
        return LoadCell(under, limits)
    return LibraryCell(under, library, limits)


def in_cells(
    library: str, options: argparse.Namespace, limits: dict[str, int], use: Callable[[LoadCell], _T]
) -> list[_T]:
    """Use one cell after another; those that do not start, or fail in use, give no result."""
    results = []
    for number in range(options.cells):
        progress(f"{library}, cell {number + 1} of {options.cells}")
        try:
            with new_cell(library, options.directory, limits) as cell:
                results.append(use(cell))
        except (TimeoutError, RuntimeError) as error:
            progress(f"failed: {error}")
    return results


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def title(*cells: str) -> None:
    print("\n| " + " | ".join(cells) + " |\n|" + "---|" * len(cells))


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


# -- commits


def flushes(directory: Path) -> int:
    """How often the kernel told the disk of ``directory`` to flush."""
    device = os.stat(directory).st_dev
    wanted = [str(os.major(device)), str(os.minor(device))]
    for line in Path("/proc/diskstats").read_text().splitlines():
        fields = line.split()
        if fields[:2] == wanted:
            return int(fields[18])
    return 0


def commits(libraries: list[str], options: argparse.Namespace) -> bool:
    syncs: list[float] = []
    rows: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)

    def load(library: str, cell: LoadCell) -> None:
        for size, outstanding in LOADS:
            syncs.extend(raw_syncs(options.directory))
            before = flushes(cell.directory)
            figures = measure(cell, size, outstanding, options.seconds)
            entries = figures["rate"] * options.seconds * 1.2  # with those before the figures
            figures["flushes"] = (flushes(cell.directory) - before) / entries
            rows[library, outstanding].append(figures)

    for library in libraries:
        in_cells(library, options, {}, partial(load, library))
    sync = percentile(syncs, 0.5)
    print(f"\nOne append with `fdatasync`: p50 {sync * 1e3:.2f} ms.")
    title("", "in flight", "entries/s", "p50 ms", "p99 ms", "p50 / fdatasync", "flushes/entry")
    for (library, outstanding), found in rows.items():
        rate, p50, p99, flushed = (
            statistics.median(f[name] for f in found) for name in ("rate", "p50", "p99", "flushes")
        )
        times = f"{p50 * 1e3:.2f}", f"{p99 * 1e3:.2f}", f"{p50 / sync:.1f}", f"{flushed:.2f}"
        row(library, outstanding, f"{rate:,.0f}", *times)
    return True


# -- kills


def report(outcomes: dict[str, Outcome]) -> bool:
    """Whether ours are without fault."""
    title(
        *("", "kills", "s without commits p50 / max", "silent for 30 s", "late"),
        "cells wedged",
        *("acknowledged", "of them lost", "after a restart", "applied twice", "peers that differ"),
    )
    for who, of in outcomes.items():
        gaps = f"{percentile(of.gaps, 0.5):.2f} / {max(of.gaps):.2f}" if of.gaps else ""
        entries = f"{of.acknowledged:,}", f"{of.lost:,}", f"{of.lost_after:,}"
        row(who, of.kills, gaps, of.silent, of.late, of.wedged, *entries, of.twice, of.differ)
    return all(outcome.good for who, outcome in outcomes.items() if who.startswith(OURS))


def kills(libraries: list[str], options: argparse.Namespace) -> bool:
    outcomes = {library: Outcome() for library in libraries}
    for library, outcome in outcomes.items():
        used = in_cells(library, options, {}, partial(kill_leaders, options.kills, outcome))
        outcome.wedged += options.cells - len(used)
    return report(outcomes)


def compaction(libraries: list[str], options: argparse.Namespace) -> bool:
    outcomes: dict[str, Outcome] = {}
    for library, (how, with_children) in itertools.product(libraries, WHAT_DIES.items()):
        outcome = outcomes[f"{library}, {how}"] = Outcome()
        kill = partial(kill_all, options.kills, outcome, with_children=with_children)
        outcome.wedged += options.cells - len(in_cells(library, options, LIMITS, kill))
    return report(outcomes)


# -- large


def commit_large(cell: LoadCell) -> tuple[list[float], int, bool]:
    """Seconds of those that committed, changes of leader, and whether small ones commit then."""
    before, took = cell.activations, []
    for _ in range(LARGE_COUNT):
        with contextlib.suppress(RuntimeError, OSError):
            result = cell.finish_load(cell.begin_load(**LARGE), STALL_S)
            took += [result["p50"]] * result["payloads"]  # none if it was refused
    goes_on = Client(cell).commits(BETWEEN)
    return took, cell.activations - before, goes_on


def large(libraries: list[str], options: argparse.Namespace) -> bool:
    title("", "of 10 MB: committed", "p50 s", "changes of leader", "cells that go on")
    wanted, good = LARGE_COUNT * options.cells, True
    for library in libraries:
        results = in_cells(library, options, {}, commit_large)
        took = [seconds for result in results for seconds in result[0]]
        changes, alive = sum(r[1] for r in results), sum(r[2] for r in results)
        p50 = f"{statistics.median(took):.2f}" if took else ""
        row(library, f"{len(took)} of {wanted}", p50, changes, f"{alive} of {options.cells}")
        good = good and (library != OURS or len(took) == wanted)
    return good


SCENARIOS: dict[str, Any] = {
    "commits": commits,
    "kills": kills,
    "compaction": compaction,
    "large": large,
}


def main() -> int:
    options = arguments()
    libraries = [name for name in options.only if installed(name)]
    return 0 if SCENARIOS[options.scenario](libraries, options) else 1


if __name__ == "__main__":
    sys.exit(main())
