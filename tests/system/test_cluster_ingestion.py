"""The leader dies while it takes in a graph of 100,000 tasks: the client is told nothing of it."""

from __future__ import annotations

import collections
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ha_scheduler.failpoints import VARIABLE
from tests.system.conftest import SCALE, Scene, new_cluster, wait_until

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(int(600 * SCALE))]

N_TASKS = int(os.environ.get("DASK_HA_TEST_TASKS", "100000"))
DEADLINE_S = 300 * SCALE


def counted(directory: str, number: int) -> int:
    """A task that leaves a line for each execution, in a file of its worker's."""
    with open(Path(directory, f"executions-{os.getpid()}"), "a") as file:
        file.write(f"{number}\n")
    return number


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    for role in ("SCHEDULER", "WORKER"):  # it would take longer than the work
        monkeypatch.setenv(f"DASK_DISTRIBUTED__{role}__VALIDATE", "false")
    with new_cluster() as cluster, cluster.get_client() as client:
        yield Scene(cluster, client, tmp_path, tmp_path)


def executions(directory: Path) -> collections.Counter[int]:
    files = directory.glob("executions-*")
    return collections.Counter(int(line) for file in files for line in file.read_text().split())


@pytest.mark.parametrize("moment", ["arrived", "appended", "committed", "running"])
def test_a_leader_that_dies_of_a_large_graph_loses_none_of_it(scene: Scene, moment: str) -> None:
    before = scene.submit("before")
    assert before.result(timeout=DEADLINE_S) == "before"
    token = scene.directory / f"graph.{moment}"
    if moment != "running":
        token.touch()
    directory = str(scene.directory)
    futures = scene.client.map(counted, [directory] * N_TASKS, range(N_TASKS), pure=False)
    total = scene.client.submit(sum, futures)
    if moment == "running":
        wait_until(lambda: any(scene.directory.glob("executions-*")), "it runs")
        scene.cluster.leader.kill_engine()
    began = time.monotonic()
    assert total.result(timeout=DEADLINE_S) == sum(range(N_TASKS))
    took = time.monotonic() - began
    assert not token.exists()
    assert all(future.status == "finished" for future in futures)
    count = executions(scene.directory)
    assert len(count) == N_TASKS
    assert set(count.values()) == {1}
    phases = scene.cluster.history()[-1]["phases"]
    print(f"{moment}: all done {took:.1f} s after; the change of leader: {phases}")  # noqa: T201
