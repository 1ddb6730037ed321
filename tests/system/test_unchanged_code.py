"""Code that knows nothing of this project: plain ``Client`` and ``dask worker``, configured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ha_scheduler import LocalHACluster
from tests.system.conftest import DEADLINE_S, Scene, wait_until

pytestmark = pytest.mark.system

SCRIPT = """
import pathlib, sys, time
from distributed import Client, get_client

directory = pathlib.Path(sys.argv[2])

def leaf(x):
    with open(directory / "executions", "a") as file:
        file.write(f"leaf-{x}\\n")
    time.sleep(0.1)
    return x

def fan_out():
    (directory / "running").touch()
    client = get_client()
    return sum(client.gather(client.map(leaf, range(20))))

if __name__ == "__main__":
    with Client(sys.argv[1]) as client:
        future = client.submit(fan_out)
        print(type(client).__module__, future.result(timeout=60))
"""


def test_a_plain_client_and_a_client_inside_a_task_survive_the_leader(
    scene: Scene, tmp_path: Path
) -> None:
    cluster: LocalHACluster = scene.cluster
    assert cluster.cell is not None
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "DASK_CONFIG": str(cluster.cell.dask_config)}
    command = [sys.executable, str(script), cluster.scheduler_address, str(tmp_path)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as user:
        try:
            wait_until(lambda: len(scene.executions()) > 3, "the task has fanned out")
            cluster.leader.kill()
            output, errors = user.communicate(timeout=DEADLINE_S)
        finally:
            user.kill()
    assert user.returncode == 0, errors
    assert output.split()[-1] == str(sum(range(20)))
    assert scene.executions() == {f"leaf-{n}": 1 for n in range(20)}
