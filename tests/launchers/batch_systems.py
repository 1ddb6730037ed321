"""The stub of every batch system (``stub_batch_system/submit``), as tests use it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUBMIT = Path(__file__).parent / "stub_batch_system" / "submit"
COMMANDS = {
    "SLURM": ("sbatch", "scancel"),
    "SGE": ("qsub", "qdel"),
    "PBS": ("qsub", "qdel"),
    "HTCondor": ("condor_submit", "condor_rm"),
    "LSF": ("bsub", "bkill"),
    "OAR": ("oarsub", "oardel"),
    "Moab": ("msub", "canceljob"),
}
#: What each class wants beside cores and memory.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "HTCondor": {"disk": "100MB"},
    "LSF": {"walltime": "00:10", "use_stdin": True, "lsf_units": "mb"},
    "OAR": {"memory_per_core_property_name": "not_applicable"},
}


class StubBatchSystem:
    """Its commands are on PATH while it is entered; its jobs end with it."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.jobs_dir = directory / "jobs"
        self.jobs_dir.mkdir()
        self._bin = directory / "bin"
        self._bin.mkdir()
        for command in COMMANDS[kind]:
            (self._bin / command).symlink_to(SUBMIT)

    @contextlib.contextmanager
    def on_path(self) -> Iterator[StubBatchSystem]:
        before = os.environ["PATH"]
        python = str(Path(sys.executable).parent)
        os.environ.update(PATH=f"{self._bin}:{python}:{before}", STUB_JOBS=str(self.jobs_dir))
        try:
            yield self
        finally:
            for job in self.running():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job, signal.SIGKILL)
            os.environ["PATH"] = before
            del os.environ["STUB_JOBS"]

    def refuse(self, refuses: bool = True) -> None:
        """Accept no job, as when a limit is reached."""
        file = self.jobs_dir / "refuse"
        file.touch() if refuses else file.unlink()

    def submitted(self) -> dict[int, str]:
        """Each job that was accepted, with its script."""
        return {int(file.stem): file.read_text() for file in self.jobs_dir.glob("*.job")}

    def running(self) -> list[int]:
        """The jobs that have a process."""
        return [job for job in self.submitted() if _lives(job)]

    def cancelled(self) -> list[int]:
        """What the cancelling command was called for."""
        file = self.jobs_dir / "cancelled"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def output(self) -> str:
        """What all jobs have printed."""
        return "".join(file.read_text() for file in self.jobs_dir.glob("output-*"))


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
