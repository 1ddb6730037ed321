"""How long a cell is without a leader when the leader's daemon gets ``kill -9``.

    python -m benchmarks.elections --rounds 200

Three real daemons with TLS and the default timing on loopback. In each round the leading daemon is
killed; measured from the kill to the election of another peer, to the activation of its engine,
and to the first commit of the new term. Then the killed peer is started again, and the next round
begins when all three engines have read the same mark. Nothing is polled: the engines tell what
happens, in CLOCK_MONOTONIC of the one host, and the new leader's history when it noticed.

Each round writes values; at the end all peers are restarted, and each must find all of them in its
ledger, or the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import percentile
from benchmarks.load_cell import NAMES, LoadCell

PHASES = ("detected", "elected", "activated", "first commit")
VALUES_A_ROUND = 20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="on the disk to use; default: TMPDIR")
    parser.add_argument("--rounds", type=int, default=200)
    return parser.parse_args()


def kill_once(cell: LoadCell, number: int) -> dict[str, float]:
    """One round: seconds from the kill to each phase."""
    cell.load(
        size=200, outstanding=4, seconds=0, least=VALUES_A_ROUND, names=1 << 30, space=f"{number}-"
    )
    killed = cell.leader
    at = cell.kill(killed)
    activated = cell.event(lambda e: e["event"] == "activated")
    first = cell.event(lambda e: e["event"] == "first_commit" and e["term"] >= activated["term"])
    cell.start(killed)
    cell.event(lambda e: e["event"] == "caught_up" and e["name"] == killed)
    cell.mark()
    (entry,) = (
        entry
        for entry in cell.status(activated["name"])["history_tail"]
        if entry["term"] == activated["term"]
    )
    noticed = entry["started"] - (time.time() - time.monotonic()) - at
    return {
        "detected": noticed,
        "elected": noticed + entry["phases"]["elected"],
        "activated": activated["t"] - at,
        "first commit": first["t"] - at,
    }


def values_everywhere(cell: LoadCell) -> dict[str, int]:
    """How many values each peer's ledger holds, as a fresh engine is told."""
    counts: dict[str, int] = {}
    cell.mark()  # so everybody knows that everything before it has committed
    for name in NAMES:
        cell.stop(name)
    for name in NAMES:
        cell.start(name)
    while len(counts) < len(NAMES):
        event = cell.event(lambda e: e["event"] == "caught_up")
        counts[event["name"]] = event["values"]
    return counts


def report(rounds: Sequence[dict[str, float]]) -> None:
    print(f"\nMilliseconds from `kill -9` of the leading daemon, {len(rounds)} rounds:\n")
    print("| to | p50 | p99 | max |")
    print("|---|---|---|---|")
    for phase in PHASES:
        values = [round_[phase] * 1e3 for round_ in rounds]
        print(f"| {phase} | {percentile(values, 0.5):.0f} | ", end="")
        print(f"{percentile(values, 0.99):.0f} | {max(values):.0f} |")


def main() -> int:
    options = arguments()
    rounds = []
    with LoadCell(options.directory) as cell:
        for number in range(options.rounds):
            began = time.monotonic()
            rounds.append(kill_once(cell, number))
            phases = "  ".join(f"{p} {rounds[-1][p] * 1e3:.0f}" for p in PHASES)
            took = time.monotonic() - began
            print(f"{number + 1:3}: {phases} ms ({took:.1f} s)", file=sys.stderr, flush=True)
        written = options.rounds * VALUES_A_ROUND
        counts = values_everywhere(cell)
    report(rounds)
    lost = {name: written - count for name, count in counts.items()}
    print(f"\nValues written: {written}; not in the ledger of a peer: {max(lost.values())}.")
    return 1 if any(lost.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
