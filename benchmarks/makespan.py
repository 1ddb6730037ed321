"""Whether a new leader places tasks as well as the old one: makespan and transfers of large graphs.

    python -m benchmarks.makespan --rounds 3 --what peer

Three graphs run in a cell of three peers and four single-threaded workers: a shuffle through tasks
(all to all), a P2P shuffle, and a tree of sums over data that should stay where it is made. Each
runs with and without a ``kill -9`` of the leading peer (or, with ``--what engine``, of its engine),
by turns. The kill falls when a third of the tasks that write a line have done so. A killed peer
starts again after the run; a killed engine does so at once, and its start takes some seconds of CPU
from the workers on a small machine.

Compared is the makespan less the outage, which is the time from the kill until the workers are back
(the leader's own history); running tasks go on meanwhile, so a ratio below 1 is no wonder. Compared
is also what workers fetched from each other, as they count it: how often, and how many bytes; the
shards of a P2P shuffle do not count, they go where they went. Other work on the machine changes the
first; it hardly changes the second. Anything wrong or executed twice ends the benchmark.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.delayed import delayed

from benchmarks.failover import wait_until_ready
from ha_scheduler import LocalHACluster

WORKERS = 4
PARTITIONS = 32
ROWS = 20_000  # of each partition: 320 kB
SECONDS = 0.05  # what making a partition takes
AFTER = 1 / 3  # of the lines, when the leader is killed
TIMEOUT_S = 300.0
MODULUS = 10_007
META = pd.DataFrame({"a": [0], "b": [0]}).iloc[:0]

Figures = dict[str, float]
Workload = Callable[[str], Any]


def mark(directory: str) -> None:
    """One line for one task: progress that no scheduler has to be asked for."""
    with open(Path(directory, "lines"), "a") as file:
        file.write("x\n")


def make(number: int, directory: str) -> pd.DataFrame:
    time.sleep(SECONDS)
    mark(directory)
    a = numbers(number)
    return pd.DataFrame({"a": a, "b": a % MODULUS})


def numbers(number: int) -> Any:
    return np.random.default_rng(number).integers(0, 1 << 30, ROWS)


EXPECTED = int(sum(numbers(number).sum() for number in range(PARTITIONS)))


def use(frame: pd.DataFrame, directory: str) -> pd.DataFrame:
    time.sleep(SECONDS)
    mark(directory)
    return frame


def shuffle(method: str) -> Workload:
    def graph(directory: str) -> Any:
        made = dd.from_map(make, range(PARTITIONS), directory=directory, meta=META)
        moved = made.shuffle("b", npartitions=PARTITIONS, shuffle_method=method, force=True)
        return moved.map_partitions(use, directory, meta=META).a.sum()

    return graph


@delayed
def data(number: int, directory: str) -> Any:
    return make(number, directory).a.to_numpy()


@delayed
def add(left: Any, right: Any, directory: str) -> Any:
    time.sleep(SECONDS)
    mark(directory)
    return left + right


def tree(directory: str) -> Any:
    """Pairs are added, then pairs of those, and so on: inputs of each are on one or two workers."""
    level = [data(number, directory) for number in range(PARTITIONS)]
    while len(level) > 1:
        level = [add(a, b, directory) for a, b in zip(level[::2], level[1::2], strict=True)]
    return level[0].sum()


WORKLOADS: dict[str, tuple[Workload, int]] = {  # and how many lines it leaves
    "tasks": (shuffle("tasks"), 2 * PARTITIONS),
    "p2p": (shuffle("p2p"), 2 * PARTITIONS),
    "tree": (tree, 2 * PARTITIONS - 1),
}


def _sent(dask_worker: Any) -> tuple[int, int]:
    """What others have fetched from this worker: how often, and how many bytes."""
    return dask_worker.transfer_outgoing_count_total, dask_worker.transfer_outgoing_bytes_total


def sent(client: Any) -> tuple[int, int]:
    counts = client.run(_sent).values()
    return sum(count for count, _ in counts), sum(size for _, size in counts)


def lines(directory: str) -> int:
    path = Path(directory, "lines")
    return path.stat().st_size // 2 if path.exists() else 0


def run_once(cluster: LocalHACluster, client: Any, name: str, kill: str = "") -> Figures:
    """One run of a workload on idle workers; ``kill`` is "peer", "engine" or nothing.

    Raises ``AssertionError`` if anything was wrong or ran twice.
    """
    graph, expected_lines = WORKLOADS[name]
    wait_until_ready(cluster)
    with tempfile.TemporaryDirectory() as directory:
        count, size = sent(client)
        started = time.time()
        future = client.compute(graph(directory))
        outage = _kill_in_the_middle(cluster, directory, expected_lines, kill) if kill else 0.0
        result = future.result(timeout=TIMEOUT_S)
        makespan = time.time() - started
        later_count, later_size = sent(client)
        for peer in cluster.peers:
            if not peer.alive:
                peer.restart()
        assert result == EXPECTED, f"{name}: {result} instead of {EXPECTED}"
        assert lines(directory) == expected_lines, f"{name}: {lines(directory)} lines"
    return {
        "makespan_s": makespan,
        "outage_s": outage,
        "less_outage_s": makespan - outage,
        "transfers": later_count - count,
        "megabytes": (later_size - size) / 1e6,
    }


def _kill_in_the_middle(
    cluster: LocalHACluster, directory: str, expected_lines: int, what: str
) -> float:
    """Kill the leader or its engine; seconds until the workers were back."""
    leader, before = cluster.leader, cluster.history()[-1]["term"]
    while lines(directory) < expected_lines * AFTER:
        time.sleep(0.005)
    killed = time.time()
    if what == "engine":
        leader.kill_engine()
    else:
        leader.kill()
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        entry = cluster.history()[-1]
        if entry["term"] > before and "workers_back" in entry["phases"]:
            return float(entry["started"] + entry["phases"]["workers_back"] - killed)
        time.sleep(0.05)
    raise TimeoutError("no leader had its workers back")


def measure(options: argparse.Namespace) -> dict[str, dict[str, list[Figures]]]:
    results: dict[str, dict[str, list[Figures]]] = {}
    # No task moves or waits for its own sake: workers that own their memory, no nannies.
    with (
        dask.config.set({"optimization.fuse.active": False}),
        LocalHACluster(
            n_peers=3, n_workers=WORKERS, nanny=False, dashboard_address=None
        ) as cluster,
        cluster.get_client() as client,
    ):
        client.wait_for_workers(WORKERS)
        for name in options.graphs:
            run_once(cluster, client, name)  # durations and imports are known then
            runs: dict[str, list[Figures]] = {"undisturbed": [], "failover": []}
            for _ in range(options.rounds):
                runs["undisturbed"].append(run_once(cluster, client, name))
                runs["failover"].append(run_once(cluster, client, name, options.what))
            results[name] = runs
            report(name, runs)
    return results


def report(name: str, runs: dict[str, list[Figures]]) -> None:
    for figure in ("makespan_s", "less_outage_s", "transfers", "megabytes"):
        one, other = (
            statistics.median(run[figure] for run in runs[kind])
            for kind in ("undisturbed", "failover")
        )
        ratio = other / one if one else 1.0
        print(
            f"{name:>6} {figure:>14}: {one:8.2f}  with a failover {other:8.2f}  ratio {ratio:5.2f}"
        )
    outages = [run["outage_s"] for run in runs["failover"]]
    print(f"{name:>6} {'outage_s':>14}: {statistics.median(outages):8.2f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--what", choices=("peer", "engine"), default="peer")
    parser.add_argument("--graphs", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = measure(options)
    if options.json:
        options.json.write_text(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
