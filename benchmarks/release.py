"""What others wait while one client lets go of many futures, against plain Dask.

    python -m benchmarks.release --futures 10000

One client submits the futures one by one (each is a graph of its own), gathers them and drops them
all at once; another one calls ``Variable.set`` without a break until the scheduler has forgotten
every task. Plain Dask and a cell of three peers take turns.

*worst* is the longest of these calls, *forgotten* the time until the last task was gone, *daemons*
the CPU of the busiest of the three. A cell whose leader changed meanwhile has failed.
"""

from __future__ import annotations

import argparse
import contextlib
import operator
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
from distributed import Client, Variable

import client_replay
from benchmarks.failover import wait_until_ready
from benchmarks.plain import PlainCluster
from ha_scheduler import LocalHACluster

N_WORKERS = 1
WARM_UP_CALLS = 20
POLL_S = 0.05
FORGOTTEN_WITHIN_S = 600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds, and CPU seconds of the busiest daemon."""

    worst_s: float
    forgotten_s: float
    daemon_cpu_s: float = 0.0
    terms: int = 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--futures", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


def _known(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def let_go(client: Any, other: Any, count: int) -> tuple[float, float]:
    """Longest call of ``other`` and time until all is forgotten, in seconds."""
    futures = [client.submit(operator.neg, i, pure=False) for i in range(count)]
    client.gather(futures)
    variable = Variable("beside", client=other)
    for _ in range(WARM_UP_CALLS):
        variable.set(0, timeout=FORGOTTEN_WITHIN_S)
    done, began = threading.Event(), time.monotonic()
    calls: list[float] = []

    def call() -> None:
        while not done.is_set():
            before = time.monotonic()
            variable.set(1, timeout=FORGOTTEN_WITHIN_S)
            calls.append(time.monotonic() - before)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        futures.clear()
        while client.run_on_scheduler(_known):
            if time.monotonic() - began > FORGOTTEN_WITHIN_S:
                raise TimeoutError("the scheduler has not forgotten what was let go")
            time.sleep(POLL_S)
        forgotten = time.monotonic() - began
    finally:
        done.set()
        caller.join()
    return max(calls), forgotten


def plain(count: int) -> Outcome:
    with (
        PlainCluster(N_WORKERS) as cluster,
        cluster.get_client() as client,
        Client(cluster.address, security=cluster.security, set_as_default=False) as other,
    ):
        return Outcome(*let_go(client, other, count))


def cell(count: int) -> Outcome:
    with (
        LocalHACluster(n_peers=3, n_workers=N_WORKERS, nanny=False) as cluster,
        cluster.get_client() as client,
        client_replay.Client(
            cluster.scheduler_address, security=cluster.security, set_as_default=False
        ) as other,
    ):
        wait_until_ready(cluster)
        daemons = [psutil.Process(peer.pid) for peer in cluster.peers]
        with counted(daemons) as cpu:
            term = cluster.history()[-1]["term"]
            worst, forgotten = let_go(client, other, count)
            terms = cluster.history()[-1]["term"] - term + 1
        return Outcome(worst, forgotten, max(cpu), terms)


@contextlib.contextmanager
def counted(processes: list[psutil.Process]) -> Iterator[list[float]]:
    """The CPU seconds of the processes in the block, in the list once it is left."""
    spent: list[float] = []
    before = [sum(process.cpu_times()[:2]) for process in processes]
    yield spent
    spent += [
        sum(process.cpu_times()[:2]) - was for process, was in zip(processes, before, strict=True)
    ]


def main() -> None:
    args = arguments()
    print("| round | worst plain | worst cell | forgotten plain | forgotten cell | daemon CPU |")
    print("|---|---|---|---|---|---|")
    for number in range(1, args.rounds + 1):
        alone, ours = plain(args.futures), cell(args.futures)
        print(
            f"| {number} | {alone.worst_s:.2f} s | {ours.worst_s:.2f} s "
            f"| {alone.forgotten_s:.1f} s | {ours.forgotten_s:.1f} s | {ours.daemon_cpu_s:.1f} s |",
            flush=True,
        )
        if ours.terms > 1:
            raise SystemExit(f"{ours.terms - 1} changes of leadership in round {number}")


if __name__ == "__main__":
    main()
