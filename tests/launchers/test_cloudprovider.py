"""dask-cloudprovider's clusters of virtual machines, whose machines are processes here."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ha_scheduler.deploy import attach
from tests.engine.conftest import eventually, pair

vmcluster = pytest.importorskip(
    "dask_cloudprovider.generic.vmcluster", reason="dask-cloudprovider is not installed"
)

machines: dict[str, subprocess.Popen[bytes]] = {}


class MockMachine(vmcluster.VMInterface):  # type: ignore[misc, name-defined]
    def __init__(self, *args: Any, cluster: Any = None, directory: Path, **kwargs: Any) -> None:
        for name in ("env_vars", "protocol", "docker_image"):
            kwargs.pop(name, None)
        super().__init__(*args, **kwargs)
        self.cluster, self.directory = cluster, directory

    async def create_vm(self) -> tuple[str, None]:
        command = self.command.replace("''", "'").replace(" python ", f" {sys.executable} ", 1)
        with open(self.directory / f"{self.name}.log", "w") as log:
            machines[self.name] = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], stdout=log, stderr=log, start_new_session=True
            )
        return "127.0.0.1", None

    async def destroy_vm(self) -> None:
        machine = machines.pop(self.name)
        os.killpg(machine.pid, signal.SIGTERM)
        await asyncio.to_thread(machine.wait)


class MockWorker(vmcluster.WorkerMixin, MockMachine):  # type: ignore[misc, name-defined]
    pass


class MockCluster(vmcluster.VMCluster):  # type: ignore[misc, name-defined]
    scheduler_class = object  # never started
    worker_class = MockWorker

    def __init__(self, directory: Path, **kwargs: Any) -> None:
        self.worker_options = {"cluster": self, "directory": directory}
        self.scheduler_options: dict[str, Any] = {}
        super().__init__(**kwargs)


async def test_machines_of_a_cloud_serve_a_cell_through_a_failover(tmp_path: Path) -> None:
    options = {"nthreads": 1, "memory_limit": "400MB", "local_directory": str(tmp_path)}
    async with pair(1) as both:
        async with attach(MockCluster)(
            both.address,
            tmp_path,
            worker_class="distributed.Nanny",
            worker_options=options,
            security=False,
            asynchronous=True,
        ) as cluster:
            cluster.scale(1)
            await eventually(lambda: len(both.leader.workers) == 2)
            await both.kill_leader()
            leader = await both.take_over()
            await eventually(lambda: cluster.scheduler_info["address"] == leader.address)
            assert await both.client.submit(int, 3) == 3
            assert len(machines) == 1
        assert not machines
        assert [ws.name for ws in leader.workers.values()] == ["w0"]
