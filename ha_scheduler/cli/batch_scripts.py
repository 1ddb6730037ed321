"""Job scripts for a cell whose peers are batch jobs. Pure.

Guarantee of each script: the peer gets SIGTERM ``hand_over_s`` before its walltime, while the batch
system still lets it live, so a leader transfers leadership first; the job's successor is queued by
the job itself when it begins, and does not begin before the job has ended, so that no two jobs of
one peer run at a time on one data directory.

``timeout`` sends the signal, because what a batch system sends before it kills, and to whom,
differs by site; it passes on a SIGTERM that it gets itself.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ha_scheduler.cell.peers import Cell
from ha_scheduler.protocol.peer import PeerAddress

HAND_OVER_S_MIN = 15  # for a transfer of leadership, on a busy node
WALLTIME_S_MIN = 60


class System(StrEnum):
    SLURM = "slurm"
    SGE = "sge"
    PBS = "pbs"


@dataclass(frozen=True, slots=True)
class Job:
    """What the scripts of a cell have in common. ``directives``: further ones, as the system's."""

    system: System
    walltime_s: int
    hand_over_s: int
    program: str
    data_dir: str
    tls_dir: str | None = None
    directives: Sequence[str] = ()
    arguments: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.walltime_s < WALLTIME_S_MIN:
            raise ValueError(f"a walltime of {self.walltime_s} s is under {WALLTIME_S_MIN} s")
        if not HAND_OVER_S_MIN <= self.hand_over_s <= self.walltime_s // 2:
            raise ValueError(
                f"the hand-over is between {HAND_OVER_S_MIN} s and half the walltime, "
                f"not {self.hand_over_s} s"
            )


def first_walltimes(job: Job, cell: Cell) -> dict[str, int]:
    """In seconds: those of the first jobs differ, so that peers do not all leave at once."""
    count = len(cell.peers)
    return {
        peer.name: max(2 * HAND_OVER_S_MIN, job.walltime_s * (i + 1) // count)
        for i, peer in enumerate(cell.peers)
    }


def script(job: Job, cell: Cell, peer: PeerAddress) -> str:
    """The script of one peer. It takes its walltime in seconds as ``DASK_HA_WALLTIME``, or its
    own."""
    name = f"dask-ha-{peer.name}"
    words = [job.program, f"--peers={cell.text}", f"--name={peer.name}"]
    words.append(f"--data-dir={job.data_dir}/{peer.name}")
    if job.tls_dir is not None:
        words.append(f"--tls-dir={job.tls_dir}")
    command = shlex.join([*words, *job.arguments])
    mark, header, queue_next = _OF[job.system](job, name, peer.host)
    lines = [
        "#!/bin/bash",
        *(f"{mark} {line}" for line in [*header, *job.directives]),
        "",
        f"# Peer {peer.name} of a cell. Its successor waits for its end.",
        f"walltime=${{DASK_HA_WALLTIME:-{job.walltime_s}}}",
        "unset DASK_HA_WALLTIME",
        f"{queue_next} || echo 'the successor was not queued; submit this script again' >&2",
        f"exec timeout --signal=TERM $((walltime - {job.hand_over_s})) \\",
        f"    {command}",
    ]
    return "\n".join(lines) + "\n"


def submit_command(job: Job, file: str, walltime_s: int) -> str:
    """How a person submits the first job of a peer."""
    variable, clock, file = f"DASK_HA_WALLTIME={walltime_s}", _clock(walltime_s), shlex.quote(file)
    match job.system:
        case System.SLURM:
            return f"sbatch --export=ALL,{variable} --time={clock} {file}"
        case System.SGE:
            return f"qsub -v {variable} -l h_rt={clock} {file}"
        case System.PBS:
            return f"qsub -v {variable} -l walltime={clock} {file}"


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _slurm(job: Job, name: str, host: str) -> tuple[str, list[str], str]:
    header = [
        f"--job-name={name}",
        f"--nodelist={host}",
        f"--time={_clock(job.walltime_s)}",
        "--dependency=singleton",  # by name and user
        "--open-mode=append",
        f"--output={job.data_dir}/{name}.log",
        "--no-requeue",
    ]
    path = f"{job.data_dir}/{name}.slurm"  # that of the running job is a copy
    return "#SBATCH", header, f"sbatch --quiet {shlex.quote(path)}"


def _sge(job: Job, name: str, host: str) -> tuple[str, list[str], str]:
    header = [
        f"-N {name}",
        "-S /bin/bash",
        "-V",
        f"-l h={host}",
        f"-l h_rt={_clock(job.walltime_s)}",
        "-j y",
        f"-o {job.data_dir}/{name}.log",
        "-r n",
    ]
    path = f"{job.data_dir}/{name}.sge"
    return "#$", header, f'qsub -terse -hold_jid "$JOB_ID" {shlex.quote(path)} > /dev/null'


def _pbs(job: Job, name: str, host: str) -> tuple[str, list[str], str]:
    header = [
        f"-N {name}",
        "-V",
        f"-l nodes={host}:ppn=1",
        f"-l walltime={_clock(job.walltime_s)}",
        "-j oe",
        f"-o {job.data_dir}/{name}.log",
        "-r n",
    ]
    path = f"{job.data_dir}/{name}.pbs"
    return "#PBS", header, f'qsub -W "depend=afterany:$PBS_JOBID" {shlex.quote(path)} > /dev/null'


_OF = {System.SLURM: _slurm, System.SGE: _sge, System.PBS: _pbs}
