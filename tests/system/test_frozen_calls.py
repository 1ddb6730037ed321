"""A leader that freezes on its way to delete data does not delete it when it wakes up.

The answers and streams of a leader wait for its lease (``test_failover``); these are the calls that
it makes to workers itself, of which the worker could not tell that they come too late.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed.diagnostics.plugin import SchedulerPlugin

from client_replay import Client
from ha_scheduler import LocalHACluster
from tests.system.conftest import DEADLINE_S, new_cluster, wait_until

pytestmark = pytest.mark.system

CPU_S = 0.05  # an engine that has used so much since it woke up has looked at its lease often


class FreezeBeforeDeleting(SchedulerPlugin):  # type: ignore[misc]
    """The first engine that is about to delete data on a worker, and finds the token, freezes.

    It writes into the token who it is.
    """

    def __init__(self, token: str) -> None:
        self.token = token

    async def start(self, scheduler: Any) -> None:
        delete = scheduler.delete_worker_data

        async def freeze_and_delete(*args: Any, **kwargs: Any) -> None:
            token = Path(self.token)
            if token.exists() and not token.read_text():
                token.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
            await delete(*args, **kwargs)

        scheduler.delete_worker_data = freeze_and_delete


def note_deletions(path: str, dask_worker: Any) -> None:
    """From now on the worker leaves a line for each call that has it delete data."""
    free_keys = dask_worker.handlers["free_keys"]

    def noting(**kwargs: Any) -> Any:
        with open(path, "a") as file:
            file.write("deleted\n")
        return free_keys(**kwargs)

    dask_worker.handlers["free_keys"] = noting


def holders(dask_worker: Any) -> list[Any]:
    return list(dask_worker.data)


@pytest.fixture
def cluster() -> Iterator[LocalHACluster]:
    # Or else it deletes copies by itself.
    with dask.config.set({"distributed.scheduler.active-memory-manager.start": False}):
        cluster = new_cluster()
    with cluster:
        yield cluster


def test_a_leader_that_froze_before_it_deleted_data_deletes_nothing_when_it_wakes_up(
    cluster: LocalHACluster, tmp_path: Path
) -> None:
    deletions, token = tmp_path / "deletions", tmp_path / "freeze"
    with cluster.get_client() as client:
        client.register_plugin(FreezeBeforeDeleting(str(token)))
        data = client.scatter(list(range(10)), broadcast=True)
        client.run(note_deletions, str(deletions))
        token.touch()

        asking = threading.Thread(target=ask_for_single_copies, args=(cluster, data))
        asking.start()
        wait_until(token.read_text, "an engine is about to delete")
        engine = psutil.Process(int(token.read_text()))
        wait_until(lambda: engine.status() == psutil.STATUS_STOPPED, "it has frozen")
        (frozen,) = (peer for peer in cluster.peers if peer.engine_pid == engine.pid)
        frozen.pause()  # its daemon too
        asking.join(DEADLINE_S)
        assert not asking.is_alive(), "the next leader does it instead"
        by_the_next = deletions.read_text()
        assert by_the_next

        used = sum(engine.cpu_times()[:2])
        engine.resume()
        wait_until(lambda: sum(engine.cpu_times()[:2]) > used + CPU_S, "the engine runs again")
        frozen.resume()
        wait_until(lambda: not engine.is_running(), "the engine has ended")
        assert deletions.read_text() == by_the_next
        held = [key for keys in client.run(holders).values() for key in keys]
        assert sorted(held) == sorted(future.key for future in data)
        assert client.gather(data) == list(range(10))


def ask_for_single_copies(cluster: LocalHACluster, data: list[Any]) -> None:
    with Client(cluster, set_as_default=False) as client:
        client.replicate(data, n=1)
