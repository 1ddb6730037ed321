"""A cell of real processes for each test, and a ledger of executions that no failover can blur."""

from __future__ import annotations

import collections
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from client_replay import Client
from ha_scheduler import LocalHACluster
from ha_scheduler.failpoints import VARIABLE

#: Deadlines are for a machine with two cores to itself; a slower one sets a larger factor.
SCALE = float(os.environ.get("DASK_HA_TEST_SCALE", "1"))
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


def wait_until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"after {DEADLINE_S:g} s still not: {what}"
        time.sleep(0.02)


def new_cluster(**options: Any) -> LocalHACluster:
    """Three peers and two workers, unless the test wants others, and patience that scales."""
    usual: dict[str, Any] = {"dashboard_address": None, "leader_timeout": LEADER_TIMEOUT_S}
    return LocalHACluster(**{**usual, **options})


@dataclass
class Scene:
    """A cluster, a client, and what its tasks have written."""

    cluster: LocalHACluster
    client: Client
    directory: Path

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


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with new_cluster() as cluster, cluster.get_client() as client:
        yield Scene(cluster, client, tmp_path)


class Cell(Scene):
    """A scene whose leaders can be told when to die."""

    def arm(self, op: str, moment: str) -> Path:
        """The engine that next reaches this moment of ``op`` dies."""
        token = self.directory / f"{op}.{moment}"
        token.touch()
        return token

    def through_a_death(self, op: str, moment: str, call: Callable[[], Any]) -> Any:
        """What ``call`` returns; the leader dies meanwhile, or else the test fails."""
        token = self.arm(op, moment)
        result = call()
        assert not token.exists(), f"no leader reached {token.name}"
        return result


def reached(token: Path) -> None:
    """Wait until an engine has died of it."""
    wait_until(lambda: not token.exists(), f"a leader reached {token.name}")


@pytest.fixture(scope="module")
def cell_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    directory = tmp_path_factory.mktemp("failpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(directory))
        cluster = new_cluster()
    with cluster, cluster.get_client() as client:
        yield Cell(cluster, client, directory)


@pytest.fixture
def cell(cell_of_the_module: Cell) -> Cell:
    """Each test begins with a leader and with somebody to follow it."""
    peers, client = cell_of_the_module.cluster.peers, cell_of_the_module.client
    wait_until(lambda: all(peer.engine_pid for peer in peers), "all have engines")
    client.submit(int, pure=False).result(timeout=DEADLINE_S)
    return cell_of_the_module
