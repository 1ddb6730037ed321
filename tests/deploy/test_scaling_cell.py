"""Slow: workers that a site's command starts, and jobs that end at their walltime, in a cell."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ha_scheduler import LocalHACluster, deploy
from ha_scheduler.deploy.environment import worker_environment
from tests.deadlines import SCALE
from tests.launchers.batch_systems import StubBatchSystem

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.system, pytest.mark.slow]


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds * SCALE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def noted(file: str, number: int, seconds: float) -> int:
    with open(file, "a") as runs:
        runs.write(f"{number}\n")
    time.sleep(seconds)
    return number


def runs(file: Path) -> Counter[str]:
    return Counter(file.read_text().split())


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Path]:
    """A command that starts workers as processes, and a file of what it was told."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "command").write_text(f"""#!/bin/bash
cd {tmp_path}
echo "$DASK_HA_PEER: $*" >> told
[ "$1" = up ] || exit 0
. ./environment
for i in $(seq 0 $(($2 - 1))); do
  [ -e workers/$i ] && kill -0 $(cat workers/$i) 2>/dev/null && continue
  setsid {sys.executable} -m distributed.cli.dask_worker $CELL --name farm-$i --nthreads 1 \\
    --host 127.0.0.1 --no-dashboard > worker-$i.log 2>&1 < /dev/null &
  echo $! > workers/$i
done
""")
    (tmp_path / "command").chmod(0o755)
    yield tmp_path
    for file in (tmp_path / "workers").iterdir():
        try:
            os.killpg(int(file.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_a_command_of_the_site_starts_workers_under_each_leader(farm: Path) -> None:
    log = farm / "runs"
    options = [f"--scale-command={farm / 'command'}"]
    with LocalHACluster(n_workers=0, peer_options=options) as cell, cell.get_client() as client:
        assert cell.cell is not None
        environment = worker_environment(cell.cell.dask_config)
        wanted = ("PYTHONPATH", "DASK_CONFIG", "DASK_INTERNAL_INHERIT_CONFIG", "PATH")
        words = [f"export {name}='{environment[name]}'" for name in wanted if name in environment]
        words.append(f"CELL={cell.scheduler_address}")
        (farm / "environment").write_text("\n".join(words))
        scale = getattr(client.scheduler, "ha-scale")
        client.sync(scale, owner="farm", minimum=0, maximum=2, target_s=0.1, command=True)
        futures = [client.submit(noted, str(log), i, 1.0, key=f"t{i}") for i in range(20)]
        until(lambda: log.exists() and sum(runs(log).values()) > 2)
        first = cell.leader.name
        cell.leader.kill()
        assert client.gather(futures) == list(range(20))
        assert max(runs(log).values()) == 1
        del futures
        told = (farm / "told").read_text
        until(lambda: " down " in told().replace(":", " "))
        until(lambda: not client.scheduler_info()["workers"])
        by = {line.partition(":")[0] for line in told().splitlines() if " down " in line}
        assert first not in by


def test_jobs_that_end_at_their_walltime_are_replaced_before_and_lose_nothing(
    tmp_path: Path,
) -> None:
    """Forty tasks of 3 s on two jobs of a minute, whose batch system kills in time; a failover."""
    log = tmp_path / "runs"
    with (
        StubBatchSystem("SLURM", tmp_path).on_path() as system,
        LocalHACluster(n_workers=0) as cell,
        cell.get_client() as client,
        deploy.HASLURMCluster(
            cell.scheduler_address,
            cores=1,
            processes=1,
            memory="400MB",
            walltime="00:01:00",
            security=cell.security,
            local_directory=str(tmp_path),
            worker_extra_args=["--host", "127.0.0.1", "--no-dashboard"],
        ) as cluster,
    ):
        over = threading.Event()
        killer = threading.Thread(target=_enforce, args=(system, 60.0, over))
        killer.start()
        try:
            cluster.adapt(minimum=2, maximum=2)
            until(lambda: len(client.scheduler_info()["workers"]) == 2)
            held = client.map(noted, [str(log)] * 6, range(100, 106), [0.0] * 6)
            client.gather(held)
            begun = time.monotonic()
            futures = client.map(noted, [str(log)] * 40, range(40), [3.0] * 40)
            time.sleep(15)
            cell.leader.kill()
            assert client.gather(futures) == list(range(40))
            took = time.monotonic() - begun
            assert client.gather(held) == list(range(100, 106))
            again = {task: n for task, n in runs(log).items() if n > 1}
            logger.info("40 in %.0f s, %d jobs; again: %s", took, len(system.submitted()), again)
            assert took < 150 * SCALE
            assert not any(int(task) >= 100 for task in again), "results were handed over"
        finally:
            over.set()
            killer.join()


def _enforce(system: StubBatchSystem, walltime_s: float, over: threading.Event) -> None:
    """As a batch system: SIGTERM at the end of the walltime, SIGKILL soon after."""
    begun: dict[int, float] = {}
    while not over.wait(0.5):
        for job in system.running():
            age = time.monotonic() - begun.setdefault(job, time.monotonic())
            for limit, how in ((walltime_s + 10, signal.SIGKILL), (walltime_s, signal.SIGTERM)):
                if age > limit:
                    _signal(job, how)
                    break


def _signal(job: int, how: signal.Signals) -> Any:
    try:
        os.killpg(job, how)
    except ProcessLookupError:
        pass
