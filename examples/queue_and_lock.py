"""Tasks take turns with a lock while the leader is killed; nobody's turn is lost or taken twice.

Each task reads a number, raises it by one and puts what it read into a queue. Without mutual
exclusion two tasks would read the same number; without exactly-once calls an item would be missing
or there twice.

Run it: ``python examples/queue_and_lock.py``
"""

from __future__ import annotations

from distributed import Lock, Queue, Variable

from ha_scheduler import LocalHACluster

TURNS = 30


def take_a_turn(number: int) -> None:
    with Lock("turn"):
        count = Variable("count").get()
        Variable("count").set(count + 1)
        Queue("turns").put(count)


def main() -> None:
    with LocalHACluster(n_peers=3, n_workers=2) as cluster, cluster.get_client() as client:
        Variable("count", client=client).set(0)
        turns = Queue("turns", client=client)
        futures = client.map(take_a_turn, range(TURNS))
        taken = [turns.get() for _ in range(3)]  # they have begun
        cluster.leader.kill_engine()  # the Dask scheduler alone: leadership moves at once
        client.gather(futures)
        taken += turns.get(batch=True)
        print(f"turns, in their order: {taken}")
        print(f"each once: {taken == list(range(TURNS))}")


if __name__ == "__main__":
    main()
