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

#: Deadlines are for a machine with two cores to itself; a slower one sets a larger factor.
SCALE = float(os.environ.get("DASK_HA_TEST_SCALE", "1"))
DEADLINE_S = 30 * SCALE
LEADER_TIMEOUT_S = 10 * SCALE  # ``cluster.leader`` waits this long for one


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
