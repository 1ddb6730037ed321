"""Three daemons stop, and start at other ports: ledger, futures and results are there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from client_replay import Client
from ha_scheduler.deploy.cell import PORTS_FILE, LocalCell
from tests.system.conftest import DEADLINE_S, new_cluster, wait_until


@pytest.mark.slow
def test_a_cell_that_comes_back_elsewhere_finds_its_workers_and_clients(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    options = [f"--scheduler-file={file}"]
    with new_cluster(n_workers=0, data_dir=tmp_path, peer_options=options) as cluster:
        cell = cluster.cell
        assert cell is not None
        wait_until(file.exists, "the scheduler file is written")
        worker = subprocess.Popen(
            [
                *(sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny"),
                *(f"--scheduler-file={file}", "--host=127.0.0.1", "--no-dashboard"),
            ],
            env={**os.environ, "DASK_CONFIG": str(cell.dask_config)},
        )
        try:
            with Client(scheduler_file=str(file), security=cluster.security) as client:
                held = client.submit(lambda: 41)
                assert held.result(timeout=DEADLINE_S) == 41
                running = client.submit(lambda x: x + 1, held, retries=1)
                cluster.sync(cell.stop)
                (tmp_path / PORTS_FILE).unlink()
                moved = LocalCell(
                    tmp_path,
                    3,
                    host="127.0.0.1",
                    tls=True,
                    dashboard=False,
                    options=options,
                    restart=lambda peer: None,
                )
                assert moved.cell.identity != cell.cell.identity
                cluster.cell = moved
                cluster.sync(moved.start, DEADLINE_S)
                after = client.submit(lambda x: x + 2, held)
                assert after.result(timeout=DEADLINE_S) == 43
                assert held.result(timeout=DEADLINE_S) == 41
                assert running.result(timeout=DEADLINE_S) == 42
        finally:
            worker.kill()
            worker.wait()
