"""``dask ha script``: peers as batch jobs that follow each other."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cli.batch_scripts import Job, System, first_walltimes
from ha_scheduler.cli.dask_ha import ha
from tests.deadlines import SCALE

PEERS = "a=node1,b=node2,c=node3"
SYSTEMS = {"slurm": "sbatch", "sge": "qsub", "pbs": "qsub"}


def write(directory: Path, system: str, *options: str) -> str:
    words = ["script", system, f"--peers={PEERS}", f"--data-dir={directory}", *options]
    done = CliRunner().invoke(ha, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def program(directory: Path, name: str, text: str) -> Path:
    file = directory / name
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(("system", "submit"), SYSTEMS.items())
def test_a_job_queues_its_successor_and_its_peer_is_told_before_the_end(
    system: str, submit: str, tmp_path: Path
) -> None:
    peer = program(
        tmp_path,
        "peer",
        f'echo "$@" > {tmp_path}/ran\n'
        f'trap "echo told >> {tmp_path}/ran; exit" TERM\n'
        "while :; do sleep 0.05; done",
    )
    program(tmp_path, submit, f'echo "$DASK_HA_WALLTIME $*" >> {tmp_path}/queued')
    write(tmp_path / "my cell", system, f"--program={peer}", "--hand-over=15s", "--walltime=1h")
    script = tmp_path / "my cell" / f"dask-ha-b.{system}"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment |= {"DASK_HA_WALLTIME": "16", "JOB_ID": "7", "PBS_JOBID": "7.server"}
    begun = time.monotonic()
    subprocess.run([str(script)], env=environment, timeout=15 * SCALE, check=False)
    assert time.monotonic() - begun > 0.9
    words, told = (tmp_path / "ran").read_text().splitlines()
    assert f"--peers={parse_peers(PEERS).text} --name=b" in words
    assert f"--data-dir={tmp_path}/my cell/b" in words
    assert told == "told"
    (queued,) = (tmp_path / "queued").read_text().splitlines()
    assert queued.startswith(" "), "its successor has the whole walltime"
    assert queued.endswith(str(script))


def test_a_job_that_is_cancelled_tells_its_peer(tmp_path: Path) -> None:
    peer = program(
        tmp_path,
        "peer",
        f"trap 'echo told >> {tmp_path}/ran; exit' TERM; touch {tmp_path}/up\n"
        "while :; do sleep 0.05; done",
    )
    program(tmp_path, "sbatch", "exit 1")  # it says so, and goes on
    write(tmp_path / "cell", "slurm", f"--program={peer}")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = [str(tmp_path / "cell" / "dask-ha-a.slurm")]
    job = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=15 * SCALE)
    assert (tmp_path / "ran").read_text() == "told\n"
    assert "submit this script again" in said


@pytest.mark.parametrize("system", SYSTEMS)
def test_first_jobs_end_at_different_times(system: str, tmp_path: Path) -> None:
    said = write(tmp_path, system, "--walltime=24h")
    for seconds, clock in ((28800, "08:00:00"), (57600, "16:00:00"), (86400, "24:00:00")):
        assert f"DASK_HA_WALLTIME={seconds}" in said
        assert clock in said
    job = Job(System.SLURM, 60, 15, "p", "/d")
    assert list(first_walltimes(job, parse_peers(PEERS)).values()) == [30, 40, 60]


def test_directives_and_arguments_go_where_they_belong(tmp_path: Path) -> None:
    write(tmp_path, "slurm", "--directive=-p long", "--directive=--mem=4G", "--", "--no-dashboard")
    script = (tmp_path / "dask-ha-a.slurm").read_text()
    assert "\n#SBATCH -p long\n#SBATCH --mem=4G\n" in script
    assert script.endswith(" --no-dashboard\n")
    assert "#SBATCH --nodelist=node1\n" in script


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--walltime=soon"], "no time"),
        (["--walltime=30s"], "under 60 s"),
        (["--walltime=1h", "--hand-over=40m"], "half the walltime"),
        (["--hand-over=1s"], "between 15 s"),
    ],
)
def test_times_that_make_no_sense_are_refused_before_anything_is_written(
    options: list[str], why: str, tmp_path: Path
) -> None:
    words = ["script", "pbs", f"--peers={PEERS}", f"--data-dir={tmp_path / 'cell'}", *options]
    done = CliRunner().invoke(ha, words)
    assert done.exit_code == 2
    assert why in done.output
    assert not (tmp_path / "cell").exists()
