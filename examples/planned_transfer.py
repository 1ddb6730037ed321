"""Leadership is handed over on purpose, as before maintenance of a node, while a task runs.

Run it: ``python examples/planned_transfer.py``
"""

from __future__ import annotations

import time

from distributed import Event

from ha_scheduler import LocalHACluster

SECONDS = 5.0


def long_task() -> tuple[float, float]:
    started = time.time()
    Event("begun").set()
    time.sleep(SECONDS)
    return started, time.time()


def main() -> None:
    with LocalHACluster(n_peers=3, n_workers=1) as cluster, cluster.get_client() as client:
        future = client.submit(long_task)
        Event("begun", client=client).wait()
        leaving = cluster.leader
        successor = next(peer for peer in cluster.peers if peer is not leaving)
        before = time.time()
        cluster.transfer(to=successor)
        after = time.time()
        print(f"{leaving.name} handed over to {successor.name} in {1000 * (after - before):.0f} ms")
        started, ended = future.result()
        print(f"the task ran on through it: {started < before < after < ended}")
        print(f"{leaving.name} is a {leaving.status}: stop it, mend it, start it again")


if __name__ == "__main__":
    main()
