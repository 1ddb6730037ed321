"""A cell of real processes, and for each test a ledger of executions that no failover can blur."""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from client_replay import Client
from ha_scheduler import LocalHACluster
from ha_scheduler.deploy.cell import is_ready
from ha_scheduler.deploy.peer_process import PeerProcess
from ha_scheduler.errors import ControlError
from ha_scheduler.failpoints import VARIABLE
from tests.cells import clear, on_leader
from tests.deadlines import SCALE

#: Deadlines are for a machine with two cores to itself; a slower one sets a larger factor.
DEADLINE_S = 30 * SCALE
LEADER_TIMEOUT_S = 10 * SCALE  # ``cluster.leader`` waits this long for one

#: The moments of a call at which its leader dies; all but one of them in the slow tests.
every_moment = pytest.mark.parametrize(
    "moment",
    [
        "appended",
        pytest.param("arrived", marks=pytest.mark.slow),
        pytest.param("committed", marks=pytest.mark.slow),
    ],
)


def recorded(directory: str, name: str, seconds: float, *inputs: Any) -> str:
    """A task that leaves one line per execution, at its beginning."""
    with open(Path(directory, "executions"), "a") as file:
        file.write(f"{name}\n")
    time.sleep(seconds)
    return name


def recorded_error(directory: str, name: str) -> None:
    """A task that fails, and leaves a line as well."""
    recorded(directory, name, 0.0)
    raise ZeroDivisionError(name)


def wait_until(condition: Callable[[], Any], what: str, every_s: float = 0.02) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"after {DEADLINE_S:g} s still not: {what}"
        time.sleep(every_s)


def new_cluster(**options: Any) -> LocalHACluster:
    """Three peers and two workers, unless the test wants others, and patience that scales."""
    usual: dict[str, Any] = {"dashboard_address": None, "leader_timeout": LEADER_TIMEOUT_S}
    return LocalHACluster(**{**usual, **options})


@dataclass
class Scene:
    """A cluster whose leaders can be told when to die, a client, and what tasks have written."""

    cluster: LocalHACluster
    client: Client
    directory: Path
    tokens: Path

    def submit(self, name: str, seconds: float = 0.0, *inputs: Any) -> Any:
        return self.client.submit(recorded, str(self.directory), name, seconds, *inputs, key=name)

    def executions(self) -> collections.Counter[str]:
        path = self.directory / "executions"
        return collections.Counter(path.read_text().split() if path.exists() else ())

    def worker_pids(self) -> set[int]:
        nannies = [psutil.Process(worker.pid) for worker in self.cluster.workers.values()]
        return {child.pid for nanny in nannies for child in nanny.children()}

    def others(self) -> list[Any]:
        leader = self.cluster.leader
        return [peer for peer in self.cluster.peers if peer is not leader]

    def wait_for_engines(self) -> None:
        peers = [peer for peer in self.cluster.peers if peer.alive]
        wait_until(lambda: all(peer.engine_pid for peer in peers), "all have engines")

    def arm(self, moment: str) -> Path:
        """The engine that next reaches this moment dies."""
        token = self.tokens / moment
        token.touch()
        return token

    def through_a_death(self, op: str, moment: str, call: Callable[[], Any]) -> Any:
        """What ``call`` returns; the leader dies at that moment of ``op``, or the test fails."""
        token = self.arm(f"{op}.{moment}")
        result = call()
        assert not token.exists(), f"no leader reached {token.name}"
        return result


def reached(token: Path) -> None:
    """Wait until an engine has died of it."""
    wait_until(lambda: not token.exists(), f"a leader reached {token.name}")


class SharedCell:
    """A cell for many tests: each has all its peers and workers, and nothing of the one before.

    A cell that is not as good as new in time is replaced by a new one.
    """

    def __init__(self, tokens: Path) -> None:
        self.tokens = tokens
        self._cluster: LocalHACluster | None = None

    def restored(self, n_workers: int) -> LocalHACluster:
        for token in self.tokens.iterdir():
            token.unlink()
        if self._cluster is None or not self._is_restored(self._cluster, n_workers):
            self.close()
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(VARIABLE, str(self.tokens))
                self._cluster = new_cluster(n_workers=n_workers)
        return self._cluster

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def _is_restored(self, cluster: LocalHACluster, n_workers: int) -> bool:
        try:
            _restore_peers(cluster)
            for name in [name for name, worker in cluster.workers.items() if not worker.alive]:
                del cluster.workers[name]
            cluster.scale(n_workers)
            wait_until(lambda: _workers_are_back(cluster), "all workers are back", 0.1)
        except (AssertionError, OSError) as error:
            sys.stderr.write(f"a new cell, for this one is beyond repair: {error}\n")
            return False
        return not clear(cluster, stays=["workers", "metadata"])  # nobody can delete metadata


def _restore_peers(cluster: LocalHACluster) -> None:
    for peer in cluster.peers:
        if peer.paused:
            peer.resume()
        if not peer.alive:
            peer.start()
    for peer in cluster.peers:
        wait_until(partial(follows, cluster, peer), f"{peer} is back", every_s=0.1)


def follows(cluster: LocalHACluster, peer: PeerProcess) -> bool:
    """Whether it leads, or its engine could."""
    assert cluster.cell is not None
    try:
        return is_ready(cluster.cell.control.status(peer.name))
    except ControlError:
        return False


def _workers_are_back(cluster: LocalHACluster) -> bool:
    workers = cluster.sync(on_leader, cluster, _workers)
    return workers == dict.fromkeys(cluster.workers, "running")


def _workers(dask_scheduler: Any) -> dict[str, str]:
    return {str(ws.name): ws.status.name for ws in dask_scheduler.workers.values()}


@pytest.fixture(scope="package")
def shared_cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedCell]:
    cell = SharedCell(tmp_path_factory.mktemp("failpoints"))
    yield cell
    cell.close()


@pytest.fixture
def n_workers() -> int:
    """For a module to replace."""
    return 2


@pytest.fixture
def scene(shared_cell: SharedCell, n_workers: int, tmp_path: Path) -> Iterator[Scene]:
    cluster = shared_cell.restored(n_workers)
    with cluster.get_client() as client:
        yield Scene(cluster, client, tmp_path, shared_cell.tokens)
