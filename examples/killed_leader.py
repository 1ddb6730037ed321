"""The leader is killed in the middle of the work, and the futures stay valid.

Run it: ``python examples/killed_leader.py``
"""

from __future__ import annotations

import time

from distributed import as_completed

from ha_scheduler import LocalHACluster


def square(x: int) -> int:
    time.sleep(0.1)
    return x * x


def main() -> None:
    with LocalHACluster(n_peers=3, n_workers=2) as cluster, cluster.get_client() as client:
        futures = client.map(square, range(40))
        next(as_completed(futures))  # the work has begun
        killed = cluster.leader
        killed.kill()  # kill -9 for daemon and engine
        print(f"the sum is {sum(client.gather(futures))}")
        print(f"peer {killed.name} is {killed.status}, peer {cluster.leader.name} leads")
        for phase, seconds in cluster.history()[-1]["phases"].items():
            print(f"  {seconds:6.3f} s  {phase}")


if __name__ == "__main__":
    main()
