"""What a task costs: the leading engine against a plain ``dask scheduler`` in the same run.

    python -m benchmarks.throughput --rounds 3

Both have TLS and two single-threaded workers on loopback, started the same way. Rounds alternate
between the two so that a slow moment of the machine hits both. Measured: CPU seconds of the
scheduler process (of the leading engine) per task, and tasks per second as the client sees them,
for 10,000 trivial tasks and for a shuffle of a dask.dataframe. Target: a CPU ratio of at most 1.05.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import operator
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.datasets
import psutil

from benchmarks.plain import PlainCluster
from ha_scheduler import LocalHACluster

TASKS = 10_000

Workload = Callable[[Any], int]


def trivial(client: Any) -> int:
    """10,000 calls of a builtin in one graph; all results stay."""
    futures = client.map(operator.neg, range(TASKS), pure=False)
    client.gather(futures[-1:])
    last = client.submit(len, futures)
    assert last.result() == TASKS
    return TASKS


def shuffle(client: Any) -> int:
    """A dataframe of 60 partitions, shuffled by a column through tasks."""
    frame = dask.datasets.timeseries(
        start="2000-01-01", end="2000-03-01", freq="60s", partition_freq="1D", seed=1
    )
    lengths = frame.shuffle("id", npartitions=60, shuffle_method="tasks").map_partitions(len)
    assert client.compute(lengths).result().sum() == 60 * 24 * 60
    return len(lengths.optimize().__dask_graph__())


WORKLOADS: dict[str, Workload] = {"trivial": trivial, "shuffle": shuffle}


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@contextlib.contextmanager
def plain() -> Iterator[tuple[Any, Callable[[], int]]]:
    with PlainCluster(n_workers=2) as cluster, cluster.get_client() as client:
        yield client, lambda: cluster.scheduler_pid


@contextlib.contextmanager
def cell() -> Iterator[tuple[Any, Callable[[], int]]]:
    with LocalHACluster(n_peers=3, n_workers=2) as cluster, cluster.get_client() as client:
        yield client, lambda: cluster.leader.engine_pid or 0


def measure(client: Any, pid: int, workload: Workload) -> dict[str, float]:
    """One round: CPU of the scheduler and wall time a task, until it has gone quiet."""
    cpu, wall = cpu_seconds(pid), time.perf_counter()
    tasks = workload(client)
    wall = time.perf_counter() - wall
    _wait_until_idle(client, pid)
    return {"cpu_us": (cpu_seconds(pid) - cpu) / tasks * 1e6, "tasks_per_s": tasks / wall}


def _wait_until_idle(client: Any, pid: int) -> None:
    """Releases of the round belong to it."""
    while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
        time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    with plain() as (plain_client, plain_pid), cell() as (cell_client, cell_pid):
        for name, workload in WORKLOADS.items():
            rounds: dict[str, list[dict[str, float]]] = {"plain": [], "cell": []}
            measure(plain_client, plain_pid(), workload)  # warm both up
            measure(cell_client, cell_pid(), workload)
            for _ in range(options.rounds):
                rounds["plain"].append(measure(plain_client, plain_pid(), workload))
                rounds["cell"].append(measure(cell_client, cell_pid(), workload))
            results[name] = rounds
            report(name, rounds)
    if options.json:
        options.json.write_text(json.dumps(results))
    return 0


def report(name: str, rounds: dict[str, list[dict[str, float]]]) -> None:
    for figure, unit in (("cpu_us", "µs scheduler CPU a task"), ("tasks_per_s", "tasks/s")):
        one, other = (
            statistics.median(round_[figure] for round_ in rounds[kind])
            for kind in ("plain", "cell")
        )
        print(f"{name:>8}: plain {one:9.1f}  cell {other:9.1f}  ratio {other / one:5.2f}  {unit}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
