"""A worker of a local cell: what ``dask worker ha://...`` runs, under a nanny or bare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ha_scheduler.cell.address import in_brackets
from ha_scheduler.deploy.child import ChildProcess

MODULE = "distributed.cli.dask_worker"


class WorkerProcess(ChildProcess):
    """One worker. With a nanny, ``pid`` is the nanny's and ``kill`` ends both."""

    def __init__(
        self,
        name: str,
        address: str,
        directory: Path,
        environment: Mapping[str, str],
        *,
        host: str,
        threads: int,
        memory_limit: int,
        nanny: bool,
        options: Sequence[str] = (),
    ) -> None:
        arguments = [
            address,
            f"--name={name}",
            f"--host={in_brackets(host)}",
            f"--nthreads={threads}",
            f"--memory-limit={memory_limit}",
            f"--local-directory={directory / 'spill'}",
            "--no-dashboard",
            "--nanny" if nanny else "--no-nanny",
            *options,
        ]
        super().__init__(name, MODULE, arguments, directory / "output.log", environment)
