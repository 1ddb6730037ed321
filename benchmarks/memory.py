"""What a daemon holds in memory: at rest, under load, and when a follower is slow or away.

    python -m benchmarks.memory --entries 1000000

Three real daemons with TLS on loopback; their engines, which only make load, are not counted. The
ledger stays at 64 MB. RSS and PSS count pages of LMDB's file that the kernel keeps mapped and takes
back when it needs them; *anonymous* memory (RssAnon) is what must be bounded.

A follower that is frozen (SIGSTOP) keeps its connections and takes nothing in: the leader must not
queue for it without bound. The exit status is 1 if a daemon's anonymous memory passes
``BOUND_BYTES``, or if anything acknowledged was lost.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from benchmarks.load_cell import NAMES, LoadCell

BOUND_BYTES = 256 * 1024 * 1024
NAMES_OF_VALUES = 1000
LARGE_BYTES = 64_000  # 64 MB in a thousand values


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="on the disk to use; default: TMPDIR")
    parser.add_argument("--entries", type=int, default=1_000_000, help="of 200 bytes")
    parser.add_argument("--megabytes", type=int, default=1000, help="of large entries, each time")
    return parser.parse_args()


class Table:
    """Prints a row for each moment, and remembers the largest."""

    def __init__(self, cell: LoadCell) -> None:
        self.most = 0
        self._cell = cell
        print(
            "| MB (RSS / PSS / anonymous) | leader | follower | other follower |\n|---|---|---|---|"
        )

    def row(self, title: str) -> None:
        names = [self._cell.leader, *(n for n in NAMES if n != self._cell.leader)]
        cells = [self._cell_of(name) for name in names]
        print(f"| {title} | {' | '.join(cells)} |", flush=True)

    def _cell_of(self, name: str) -> str:
        if name not in self._cell.daemons:
            return "away"
        info = self._cell.process(name).memory_full_info()
        anonymous = self._cell.anonymous_bytes(name)
        self.most = max(self.most, anonymous)
        return " / ".join(f"{value / 1e6:.0f}" for value in (info.rss, info.pss, anonymous))


def load(cell: LoadCell, size: int, outstanding: int, count: int) -> None:
    """All daemons that run take part."""
    cell.load(size=size, outstanding=outstanding, seconds=0, least=count, names=NAMES_OF_VALUES)


def load_without(cell: LoadCell, absent: str, megabytes: int) -> None:
    """Load of which ``absent`` learns nothing now."""
    others = set(NAMES) - {absent}
    count = megabytes * 1_000_000 // LARGE_BYTES
    order = {"size": LARGE_BYTES, "outstanding": 16, "seconds": 0, "names": NAMES_OF_VALUES}
    cell.finish_load(cell.begin_load(**order, least=count))
    cell.mark(others)


def main() -> int:
    options = arguments()
    large = options.megabytes * 1_000_000 // LARGE_BYTES
    with LoadCell(options.directory) as cell:
        table = Table(cell)
        table.row("at rest")
        load(cell, 200, 64, options.entries)
        table.row(f"after {options.entries:,} entries of 200 bytes")
        load(cell, LARGE_BYTES, 16, large)
        table.row(f"after {options.megabytes:,} MB in entries of {LARGE_BYTES:,} bytes")
        other = next(name for name in NAMES if name != cell.leader)
        frozen = cell.process(other)
        frozen.send_signal(signal.SIGSTOP)
        try:
            load_without(cell, other, options.megabytes)
            table.row(f"{other} frozen, {options.megabytes:,} MB more")
        finally:
            frozen.send_signal(signal.SIGCONT)
        cell.mark()
        table.row(f"{other} has caught up")
        cell.kill(other)
        load_without(cell, other, options.megabytes)
        table.row(f"{other} away, {options.megabytes:,} MB more")
        cell.start(other)
        cell.event(lambda e: e["event"] == "caught_up" and e["name"] == other)
        cell.mark()
        table.row(f"{other} is back")
    print(f"\nMost anonymous memory of a daemon: {table.most / 1e6:.0f} MB ", end="")
    print(f"(bound: {BOUND_BYTES / 1e6:.0f} MB).")
    return 0 if table.most < BOUND_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
