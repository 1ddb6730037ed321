"""Kill the leading engine while graphs are on their way: each must be run, and run once.

    python -m benchmarks.in_flight --rounds 20

In each round a client submits ``--graphs`` graphs of ``--tasks`` tasks, and the leading engine gets
``kill -9`` a random moment within ``--within`` seconds of the first. Printed: how many graphs were
not yet acknowledged at the kill, and so had to be resubmitted from the client's journal.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from typing import Any

from distributed import wait

from benchmarks.counting import counted_sleep, verdict
from benchmarks.failover import wait_until_ready
from benchmarks.figures import print_verdict, succeeded
from ha_scheduler import LocalHACluster


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--graphs", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=10, help="tasks of one graph")
    parser.add_argument("--within", type=float, default=0.05, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


class Round:
    """One kill among submissions."""

    def __init__(self, cluster: LocalHACluster, client: Any, after_s: float) -> None:
        self._leader = cluster.leader
        self._client = client
        self._killer = threading.Timer(after_s, self._kill)
        self.unacknowledged = 0

    def _kill(self) -> None:
        self.unacknowledged = len(self._client._ha.journal)
        self._leader.kill_engine()

    def run(self, first: int, options: argparse.Namespace, directory: str) -> list[Any]:
        futures: list[Any] = []
        self._killer.start()
        for graph in range(options.graphs):
            start = first + graph * options.tasks
            numbers = range(start, start + options.tasks)
            futures += self._client.map(counted_sleep, numbers, directory=directory, seconds=0.001)
        self._killer.join()
        wait(futures, timeout=120)
        return futures


def main() -> int:
    options = arguments()
    rng = random.Random(options.seed)
    futures: list[Any] = []
    with (
        tempfile.TemporaryDirectory() as directory,
        LocalHACluster(n_peers=3, n_workers=2) as cluster,
        cluster.get_client() as client,
    ):
        resubmitted = 0
        for number in range(options.rounds):
            wait_until_ready(cluster)
            round_ = Round(cluster, client, rng.uniform(0, options.within))
            started = time.monotonic()
            futures += round_.run(len(futures), options, directory)
            resubmitted += round_.unacknowledged
            print(
                f"{number + 1:3}: {round_.unacknowledged:3} of {options.graphs} graphs "
                f"unacknowledged at the kill; all done after {time.monotonic() - started:.2f} s",
                flush=True,
            )
        result = verdict(client, futures, directory)
    print(f"\n{len(futures)} tasks; {resubmitted} graphs resubmitted from the journal")
    print_verdict(result)
    return 0 if succeeded(result) and resubmitted else 1


if __name__ == "__main__":
    sys.exit(main())
