"""dask-jobqueue's classes for a cell that runs, on a stub of their batch systems."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed.core import Status

pytest.importorskip("dask_jobqueue", reason="the extra `jobqueue` is not installed")

from ha_scheduler import deploy
from tests.engine.conftest import eventually, pair
from tests.launchers.batch_systems import ARGUMENTS, COMMANDS, StubBatchSystem

#: A worker's command line that ends at once, for tests of what is submitted and cancelled.
NO_WORKER = "sleep 60 #"


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[StubBatchSystem]:
    with StubBatchSystem("SLURM", tmp_path).on_path() as system:
        yield system


def cluster_of(kind: str, address: str, tmp_path: Path, **kwargs: Any) -> Any:
    arguments = {
        "cores": 1,
        "processes": 1,
        "memory": "400MB",
        "walltime": "00:10:00",
        "local_directory": str(tmp_path),
        "worker_extra_args": ["--host", "127.0.0.1", "--no-dashboard"],
        "asynchronous": True,
        **ARGUMENTS.get(kind, {}),
        **kwargs,
    }
    if kind == "HTCondor":
        del arguments["walltime"]
    return getattr(deploy, f"HA{kind}Cluster")(address, **arguments)


@pytest.mark.parametrize("kind", COMMANDS)
async def test_a_job_of_each_system_starts_a_worker_for_the_cell_and_is_cancelled(
    kind: str, tmp_path: Path
) -> None:
    with StubBatchSystem(kind, tmp_path).on_path() as system:
        async with (
            pair(0) as both,
            cluster_of(kind, both.address, tmp_path, python=NO_WORKER) as cluster,
        ):
            cluster.scale(2)
            await eventually(lambda: len(cluster.workers) == 2)
            jobs = system.submitted()
            assert len(jobs) == 2
            for script in jobs.values():
                assert f"distributed.cli.dask_worker {both.address} " in script
                assert "--protocol ha://" in script, "so that it listens where it reaches the cell"
                assert f"--name {cluster.name}-" in script
            cluster.scale(1)
            await eventually(lambda: len(system.cancelled()) == 1)
        assert sorted(system.cancelled()) == sorted(jobs)
        await eventually(lambda: not system.running())


async def test_workers_in_jobs_outlive_the_leader_and_leave_alone_what_is_not_theirs(
    slurm: StubBatchSystem, tmp_path: Path
) -> None:
    async with pair(1) as both:
        kept = both.client.submit(int, 7, key="kept", workers=["w0"])
        await kept
        async with cluster_of("SLURM", both.address, tmp_path) as cluster:
            cluster.scale(1)
            name = f"{cluster.name}-0"
            await eventually(lambda: name in cluster.observed)
            (job,) = slurm.running()
            address = both.leader.aliases[name]
            kinds = await both.client.run(_kinds, workers=[address])
            assert kinds == {address: "ha_scheduler.worker.worker"}
            file = tmp_path / "runs"
            held = both.client.submit(
                _noted, str(file), key="held", workers=[name], allow_other_workers=True
            )
            await held
            await both.kill_leader()
            leader = await both.take_over()
            await eventually(lambda: cluster.scheduler_info["address"] == leader.address)
            assert slurm.running() == [job]
            assert await both.client.gather([held, kept]) == [8, 7]
            subprocess.run(["scancel", str(job)], check=True)
            await eventually(lambda: not slurm.running())
            assert [ws.name for ws in leader.workers.values()] == ["w0"]
            assert await both.client.gather([held, kept]) == [8, 7]
            assert file.read_text() == "run\n", "it was handed over, and not computed again"
        assert [ws.name for ws in leader.workers.values()] == ["w0"]


def _noted(file: str) -> int:
    with open(file, "a") as runs:
        runs.write("run\n")
    return 8


def _kinds(dask_worker: Any) -> str:
    return type(dask_worker).__module__


async def test_a_job_that_was_refused_is_submitted_again_by_who_looks_next(
    slurm: StubBatchSystem, tmp_path: Path
) -> None:
    async with (
        pair(0) as both,
        cluster_of("SLURM", both.address, tmp_path, python=NO_WORKER) as cluster,
    ):
        slurm.refuse()
        cluster.scale(1)
        with pytest.raises(RuntimeError, match="the limit of jobs of this user is reached"):
            await cluster._correct_state()
        assert not cluster.workers
        slurm.refuse(False)
        await cluster
        assert len(slurm.submitted()) == len(cluster.workers) == 1
    assert cluster.status == Status.closed


async def test_clusters_without_names_have_workers_of_different_names(
    slurm: StubBatchSystem, tmp_path: Path
) -> None:
    async with (
        pair(0) as both,
        cluster_of("SLURM", both.address, tmp_path, python=NO_WORKER) as one,
    ):
        await eventually(lambda: "cluster-manager-info" in both.leader.task_metadata)
        async with cluster_of("SLURM", both.address, tmp_path, python=NO_WORKER) as other:
            one.scale(1)
            other.scale(1)
            await eventually(lambda: len(slurm.submitted()) == 2)
            assert not one.plan & other.plan


def test_a_start_that_fails_leaves_no_thread_and_no_job(
    slurm: StubBatchSystem, tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    config = {"distributed.comm.timeouts.connect": "0.3s"}
    with (
        dask.config.set(config),
        pytest.raises(RuntimeError, match=r"no peer of the cell leads|Timed out"),
    ):
        cluster_of("SLURM", "ha://127.0.0.1:1", tmp_path, asynchronous=False, n_workers=1)
    with pytest.raises(ValueError, match="unexpected keyword argument"):
        cluster_of("SLURM", "ha://127.0.0.1:1", tmp_path, asynchronous=False, nonsense=1)
    left = {t for t in set(threading.enumerate()) - before if "IO loop" in t.name}
    assert not left
    assert not slurm.submitted()


def test_the_names_are_there_only_where_dask_jobqueue_is() -> None:
    code = (
        "import sys; sys.modules['dask_jobqueue'] = None\n"
        "from ha_scheduler import deploy\n"
        "try: deploy.HASLURMCluster\n"
        "except ImportError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'dask-ha-scheduler[jobqueue]'" in said.stdout
