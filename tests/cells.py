"""Cells that tests share: what one test has left there is gone before the next one begins."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import dask.config

CLEAN_SECONDS_MAX = 10.0  # for what a test has let go to be forgotten by the leader
POLL_S = 0.05
#: The calls that empty what tests leave behind.
SWEEPING = {
    "queues": "queue_release",
    "variables": "variable_delete",
    "semaphores": "semaphore_close",
    "events": "event_clear",
    "worker_plugins": "unregister_worker_plugin",
    "nanny_plugins": "unregister_nanny_plugin",
    "scheduler_plugins": "unregister_scheduler_plugin",
}
AMM_START = "distributed.scheduler.active-memory-manager.start"
CLIENT_OF_WORKER = "Client-worker-"  # ``get_client`` in a task makes one that stays


def leftovers(dask_scheduler: Any) -> dict[str, list[Any]]:
    """What there is in a scheduler of its clients' making. Runs on the leader."""
    s, of = dask_scheduler, dask_scheduler.extensions
    clients = {*s.session_of, *s.client_comms} & s.clients.keys()
    found = {
        "clients": [name for name in clients if not name.startswith(CLIENT_OF_WORKER)],
        "workers": s.workers,
        "tasks": s.tasks,
        "queues": of["queues"].queues,
        "variables": of["variables"].variables,
        "semaphores": of["semaphores"].max_leases,
        "multi_locks": [name for name, line in of["multi_locks"].locks.items() if line],
        "events": of["events"]._events,
        "datasets": of["publish"].datasets,
        "metadata": s.task_metadata.keys() - {"cluster-manager-info"},  # of the cluster
        "worker_plugins": s.worker_plugins.keys() - {"shuffle"},  # of the scheduler
        "nanny_plugins": s.nanny_plugins,
        "scheduler_plugins": s.recorded_plugins,
        "amm": [] if of["amm"].running is dask.config.get(AMM_START) else ["started or stopped"],
    }
    return {kind: list(names) for kind, names in found.items() if names}


def forget_absent(dask_scheduler: Any) -> None:
    """End the grace of clients that closed while nobody led. Runs on the leader."""
    s = dask_scheduler
    for client in (s.session_of.keys() & s.clients.keys()) - s.client_comms.keys():
        s.remove_client(client, stimulus_id="its test is over")


def end_holds(dask_scheduler: Any) -> None:
    """Queues and variables that are gone hold for two minutes what a caller has got of them."""
    s = dask_scheduler
    for client in [name for name in s.clients if name.startswith(("queue-", "variable-"))]:
        keys = [ts.key for ts in s.clients[client].wants_what]
        s.client_releases_keys(keys=keys, client=client)


def clear(cluster: Any, stays: Iterable[str] = ()) -> dict[str, list[Any]]:
    """Have the leader forget what a test has left; what it still holds, but for what ``stays``.

    Waits for it for ``CLEAN_SECONDS_MAX``, and while leaders that a test has killed are replaced.
    """
    deadline = time.monotonic() + CLEAN_SECONDS_MAX
    found: dict[str, list[Any]] = {"unknown": []}
    while found and time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # a leader that was killed late, and has just died
            held = cluster.sync(on_leader, cluster, leftovers)
            found = {kind: names for kind, names in held.items() if kind not in stays}
            if found:
                cluster.sync(_sweep, cluster, found)
                _unpublish(cluster, found.get("datasets", ()))
                time.sleep(POLL_S)
    if found:
        sys.stderr.write(f"left behind: {found}\n")
    return found


async def on_leader(cluster: Any, function: Callable[[Any], Any]) -> Any:
    """What the function returns for the scheduler that leads."""
    from distributed.protocol.pickle import dumps

    answer = await cluster.scheduler_comm.run_function(
        function=dumps(function), args=dumps(()), kwargs=dumps({}), wait=True
    )
    assert answer["status"] == "OK", answer
    return answer["result"]


async def _sweep(cluster: Any, found: dict[str, list[Any]]) -> None:
    await on_leader(cluster, forget_absent)
    if not found.keys() & {"queues", "variables"}:
        await on_leader(cluster, end_holds)
    for kind, op in SWEEPING.items():
        for name in found.get(kind, ()):
            with contextlib.suppress(OSError, KeyError, ValueError):
                await getattr(cluster.scheduler_comm, op)(name=name)


def _unpublish(cluster: Any, names: Iterable[Any]) -> None:
    if names:
        with cluster.get_client() as client:
            for name in names:
                client.unpublish_dataset(name)
