"""A program that forks while it has a cell and a client; prints what it finds as JSON.

A program of its own, because a child that leaves by its exit handlers runs those of pytest, too.
"""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from distributed import Variable, Worker

from client_replay import Client
from ha_scheduler import LocalHACluster
from ha_scheduler.deploy.attached import HACluster
from ha_scheduler.forks import ForkedChild

TIMEOUT_S = 20


def increment(x: int) -> int:
    return x + 1


def in_fork(work: Callable[[], Any]) -> int:
    """The exit status of a forked child that does ``work`` and leaves as programs do."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


def refused(ask: Callable[[], Any]) -> None:
    with contextlib.suppress(ForkedChild):
        ask()
        raise AssertionError("it was not refused")


def whole(cluster: LocalHACluster, client: Client) -> bool:
    """Whether everything of the parent's is there and serves on the connections that it has."""
    children = [*cluster.peers, *cluster.workers.values()]
    stream = client.scheduler_comm
    answers = [client.submit(increment, i, pure=False).result(TIMEOUT_S) for i in range(3)]
    return (
        all(child.alive for child in children)
        and cluster.directory.exists()
        and answers == [1, 2, 3]
        and client.scheduler_comm is stream
    )


def with_worker_here(cluster: LocalHACluster, work: Callable[[], Any]) -> list[Any]:
    address, security = cluster.scheduler_address, cluster.security
    kind = {"cls": Worker, "options": {"security": security, "dashboard": False}}
    with HACluster(address, security=security, worker=kind) as attached:
        attached.scale(1)
        attached.sync(attached._correct_state)
        (worker,) = attached.workers.values()
        status = in_fork(work)
        return [status, os.path.isdir(worker.local_directory) and worker.status.name == "running"]


def main() -> None:
    found: dict[str, Any] = {}
    made = LocalHACluster(n_peers=1, n_workers=1, dashboard_address=None, nanny=False)
    with made as cluster, cluster.get_client() as client:
        future = client.submit(increment, 1)
        future.result(TIMEOUT_S)

        def uses() -> None:
            refused(lambda: client.submit(increment, 5))
            refused(lambda: client.map(increment, [5]))
            refused(lambda: client.gather(future))
            refused(lambda: client.scatter([1]))
            refused(lambda: Variable("v", client=client).set(1))
            refused(future.result)
            refused(lambda: cluster.scale(5))
            refused(cluster.peers[0].kill)
            refused(cluster.peers[0].kill_engine)
            repr(cluster.peers[0])

        def lets_go() -> None:
            client.close()
            cluster.close()
            client.scheduler_comm = client.rpc = client.scheduler = None  # streams are garbage
            gc.collect()

        def own_client() -> None:
            with Client(cluster.scheduler_address, security=cluster.security) as own:
                assert own.submit(increment, 41, pure=False).result(TIMEOUT_S) == 42

        def nothing() -> None:
            pass

        for work in (nothing, uses, lets_go, own_client):
            found[work.__name__] = [in_fork(work), whole(cluster, client)]

        process = multiprocessing.get_context("fork").Process(target=uses)
        process.start()
        process.join(TIMEOUT_S)
        found["multiprocessing"] = [process.exitcode, whole(cluster, client)]
        found["worker in this process"] = with_worker_here(cluster, nothing)
    found["closed"] = cluster.directory.exists()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
