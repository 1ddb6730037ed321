"""How long a leader's heartbeat stays away while its engine ingests a large graph.

    python -m benchmarks.heartbeat --tasks 300000

One graph goes to the leader of a three-peer cell; its engine, and those of the followers that
replay it, are busy for many seconds on the same cores. Printed: the longest silence of the leader
that a follower's daemon saw, the longest time between two ticks of any daemon, and whether
leadership changed (it must not). A heartbeat is due every 100 ms; an election starts after 600 ms.
"""

from __future__ import annotations

import argparse
import operator
import sys
import time
from typing import Any

from benchmarks.failover import wait_until_ready
from ha_scheduler import LocalHACluster

COMMIT_TIMEOUT_S = 300.0


def longest(cluster: LocalHACluster, figure: str) -> float:
    """The largest of a figure of all peers, in seconds, since they started."""
    cell: Any = cluster.cell
    return max(float(getattr(cell.control.status(peer.name), figure)) for peer in cluster.peers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=300_000)
    options = parser.parse_args()
    with LocalHACluster(n_peers=3, n_workers=1) as cluster, cluster.get_client() as client:
        wait_until_ready(cluster)
        term = cluster.history()[-1]["term"]
        before = {name: longest(cluster, name) for name in ("leader_gap_s_max", "tick_gap_s_max")}
        started = time.monotonic()
        futures = client.map(operator.neg, range(options.tasks))
        deadline = started + COMMIT_TIMEOUT_S
        while len(client._ha.journal):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the graph did not commit within {COMMIT_TIMEOUT_S:.0f} s")
            time.sleep(0.1)
        committed = time.monotonic() - started
        wait_until_ready(cluster)
        ready = time.monotonic() - started
        same = cluster.history()[-1]["term"] == term
        print(f"{options.tasks} tasks: committed after {committed:.1f} s, everywhere {ready:.1f} s")
        for name, idle in before.items():
            print(f"{name}: {longest(cluster, name) * 1e3:.0f} ms (at start {idle * 1e3:.0f} ms)")
        print("leadership", "stayed" if same else "CHANGED")
        del futures
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
