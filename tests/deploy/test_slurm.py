"""Slow: workers as jobs of a real Slurm, through failovers."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dask_jobqueue", reason="the extra `jobqueue` is not installed")

from ha_scheduler import LocalHACluster, deploy
from tests.deadlines import SCALE

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="installs and starts Slurm as root"),
]

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "slurm-for-tests"


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds * SCALE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def said(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def running() -> list[str]:
    return sorted(said("squeue", "-h", "-t", "RUNNING", "-o", "%i").split())


def jobs() -> list[str]:
    return said("squeue", "-h", "-o", "%i").split()


def noted(file: str, name: str, seconds: float) -> str:
    with open(file, "a") as runs:
        runs.write(f"{name}\n")
    time.sleep(seconds)
    return name


def runs(file: Path) -> Counter[str]:
    return Counter(file.read_text().split()) if file.exists() else Counter()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    directory = tmp_path_factory.mktemp("slurm")
    # Its daemons must not inherit a pipe, whose end would be waited for.
    with open(directory / "start.log", "w") as log:
        subprocess.run([str(SCRIPT), "start", str(directory)], check=True, stdout=log, stderr=log)
    os.environ["SLURM_CONF"] = str(directory / "slurm.conf")
    yield
    subprocess.run([str(SCRIPT), "stop", str(directory)], check=True)
    del os.environ["SLURM_CONF"]


@pytest.fixture(scope="module")
def cell(slurm: None) -> Iterator[LocalHACluster]:
    with LocalHACluster(n_workers=0, leader_timeout=30 * SCALE) as made:
        yield made


@pytest.fixture
def client(cell: LocalHACluster) -> Iterator[Any]:
    with cell.get_client() as made:
        yield made
    for peer in cell.peers:
        if not peer.alive:
            peer.restart()


def cluster_of(cell: LocalHACluster, directory: Path) -> Any:
    return deploy.HASLURMCluster(
        cell.scheduler_address,
        cores=1,
        processes=1,
        memory="400MB",
        walltime="00:10:00",
        security=cell.security,
        log_directory=str(directory / "logs"),
        local_directory=str(directory / "spill"),
        worker_extra_args=["--host", "127.0.0.1", "--no-dashboard"],
    )


def workers(client: Any) -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


def test_tasks_run_on_in_the_same_jobs_when_the_leader_dies(
    cell: LocalHACluster, client: Any, tmp_path: Path
) -> None:
    log = tmp_path / "runs"
    with cluster_of(cell, tmp_path) as cluster:
        cluster.scale(2)
        until(lambda: workers(client) == 2)
        before = running()
        futures = [client.submit(noted, str(log), f"t{i}", 3.0, key=f"t{i}") for i in range(6)]
        until(lambda: len(runs(log)) >= 2)
        cell.leader.kill()
        assert client.gather(futures) == [f"t{i}" for i in range(6)]
        assert running() == before
        assert set(runs(log).values()) == {1}
    until(lambda: not jobs())


def test_jobs_come_and_go_with_the_work_across_a_failover(
    cell: LocalHACluster, client: Any, tmp_path: Path
) -> None:
    log = tmp_path / "runs"
    with cluster_of(cell, tmp_path) as cluster:
        cluster.adapt(minimum=0, maximum=4, interval="500ms", target_duration="2s")
        futures = [client.submit(noted, str(log), f"a{i}", 1.5, key=f"a{i}") for i in range(16)]
        until(jobs)
        cell.leader.kill()
        until(lambda: len(running()) == 4, 90)
        assert client.gather(futures) == [f"a{i}" for i in range(16)]
        assert set(runs(log).values()) == {1}
        del futures
        until(lambda: not jobs())


def test_a_job_that_is_cancelled_hands_over_and_is_replaced(
    cell: LocalHACluster, client: Any, tmp_path: Path
) -> None:
    log = tmp_path / "runs"
    with cluster_of(cell, tmp_path) as cluster:
        cluster.adapt(minimum=2, maximum=2, interval="500ms")
        until(lambda: workers(client) == 2)
        held = [client.submit(noted, str(log), f"h{i}", 0.05, key=f"h{i}") for i in range(8)]
        client.gather(held)
        victim = running()[0]
        said("scancel", "--full", victim)
        until(lambda: len(running()) == 2 and victim not in running(), 120)
        assert client.gather(held) == [f"h{i}" for i in range(8)]
        assert set(runs(log).values()) == {1}, "results were handed over"


def test_a_cluster_that_closes_leaves_the_workers_of_others(
    cell: LocalHACluster, client: Any, tmp_path: Path
) -> None:
    with cluster_of(cell, tmp_path) as other:
        other.scale(1)
        until(lambda: workers(client) == 1)
        kept = client.submit(str, "kept", key="kept")
        assert kept.result() == "kept"
        with cluster_of(cell, tmp_path) as mine:
            mine.scale(1)
            until(lambda: workers(client) == 2)
        until(lambda: workers(client) == 1)
        assert kept.result() == "kept"
        assert len(running()) == 1
