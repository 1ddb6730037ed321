"""What a journal costs the caller: ``submit`` and ``map`` against the plain Client.

    python -m benchmarks.client_cost [--rounds 5] [--peers 1]

Of each operation what the caller waits for (until it has its futures) and the total (until the
last result is there), of a plain scheduler with a plain Client, and of a cell with a journal in
memory and on disk, all without TLS: medians, and their ratios. Then the bytes that are kept of a
task that the cell has, and how long 100,000 outstanding keys take to be read again.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from distributed.client import _wait

from benchmarks.plain import PlainCluster
from client_replay import Client
from client_replay.journal.disk import DiskKeeper
from client_replay.journal.file import Identity, Owner
from client_replay.journal.journal import Journal
from ha_scheduler import LocalHACluster

TASKS, SUBMITS, LARGE_BYTES, OUTSTANDING = 10_000, 1_000, 50_000_000, 100_000
SETTLE_S = 1.0


def passed(value: Any) -> int:
    return 1


def map_many(client: Any) -> list[Any]:
    return list(client.map(passed, range(TASKS), pure=False))


def submit_each(client: Any) -> list[Any]:
    return [client.submit(passed, i, pure=False) for i in range(SUBMITS)]


def submit_large(client: Any) -> list[Any]:
    return [client.submit(passed, _LARGE, pure=False)]


_LARGE = os.urandom(LARGE_BYTES)
OPERATIONS = {
    f"map of {TASKS:,}": map_many,
    f"{SUBMITS:,} submits": submit_each,
    f"{LARGE_BYTES // 10**6} MB argument": submit_large,
}


def measure(client: Any, operation: Callable[[Any], list[Any]], rounds: int) -> tuple[float, float]:
    """Medians in seconds: the caller's wait, and the total. The first round warms up."""
    waits, totals = [], []
    for number in range(rounds + 1):
        begun = time.perf_counter()
        futures = operation(client)
        returned = time.perf_counter()
        client.sync(_wait, futures)
        ended = time.perf_counter()
        if number:
            waits.append(returned - begun)
            totals.append(ended - begun)
        del futures
        time.sleep(SETTLE_S)  # the releases
    return statistics.median(waits), statistics.median(totals)


def of_client(client: Any, rounds: int) -> dict[str, tuple[float, float]]:
    found = {}
    for name, operation in OPERATIONS.items():
        found[name] = measure(client, operation, rounds)
        print(f"{type(client).__module__}: {name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def outstanding(directory: Path) -> tuple[float, float]:
    """Bytes on disk of each outstanding key, and seconds to have 100,000 of them again."""
    path = directory / "many.journal"
    journal = Journal(DiskKeeper.create(path, Identity("s", "c"), 1 << 30))
    for number in range(OUTSTANDING):
        journal.append({"op": "update-graph", "keys": {f"task-{number:032d}"}}, 500)
        if number % 1000 == 999:
            journal.committed(range(number - 998, number + 2))
    journal.leave()
    size = path.stat().st_size
    begun = time.perf_counter()
    with mock.patch.object(Owner, "is_alive", return_value=False):
        again = Journal(DiskKeeper.resume(path, 1 << 30))
    took = time.perf_counter() - begun
    assert len(again.wanted()) == OUTSTANDING
    again.close()
    return size / OUTSTANDING, took


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client_cost")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=int, default=1)
    chosen = parser.parse_args()
    found: dict[str, dict[str, tuple[float, float]]] = {}
    with PlainCluster(2, tls=False) as plain, plain.get_client() as client:
        found["plain"] = of_client(client, chosen.rounds)
    with (
        tempfile.TemporaryDirectory(prefix="journals-") as directory,
        LocalHACluster(n_peers=chosen.peers, n_workers=2, security=False) as cluster,
    ):
        for kind in ("memory", "disk"):
            journal = Path(directory, "cost.journal") if kind == "disk" else None
            with Client(cluster, journal=journal, set_as_default=False) as client:
                found[kind] = of_client(client, chosen.rounds)
        per_key, resumed_s = outstanding(Path(directory))
    print(f"{'':20} {'plain':>9} {'memory':>9} {'disk':>9}   ratios")
    for name in OPERATIONS:
        for at, what in enumerate(("caller", "total")):
            ms = [found[kind][name][at] * 1000 for kind in ("plain", "memory", "disk")]
            ratios = ", ".join(f"{value / ms[0]:.2f}x" for value in ms[1:])
            numbers = " ".join(f"{value:6.1f} ms" for value in ms)
            print(f"{name:20} {numbers}   {what}: {ratios}")
    print(f"{per_key:.0f} bytes on disk of each outstanding key")
    print(f"{OUTSTANDING:,} outstanding keys read again in {resumed_s:.2f} s")


if __name__ == "__main__":
    main()
