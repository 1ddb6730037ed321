"""What a run is made against, as faults, workloads and the runner see it.

A target starts what it owns and ends it, says whom a signal reaches, and places clients where they
are to be. What it cannot do, it lacks in ``abilities``: faults look there, and say what is missing.

All is synchronous. ``start`` and every ``restart`` come from one thread of the target's own: the
kernel ends a child with the *thread* that made it (``ha_scheduler/deploy/child.py``).
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import Any, Literal, NamedTuple, Protocol

from ha_scheduler.cli.control import ControlClient

Part = Literal["daemon", "engine", "both"]

#: The abilities there are; a target has some of them.
ABILITIES = {
    "processes": "signals reach its processes, and a peer can be started again",
    "workers": "its workers are processes that can be signalled and started again",
    "files": "the data and logs of its peers can be read and changed here",
    "shared-files": "its tasks can leave files that are read here",
    "environment": "a peer can be given another environment at its next start",
    "failpoints": "an engine or daemon can be told to die at a named moment",
    "control": "it answers an admin's requests: membership, transfer, tokens",
    "network": "links between its hosts can be cut",
    "wire": "packets between its hosts can be delayed, lost, repeated and reordered",
    "vip": "it has a virtual address",
    "clients": "clients are placed on a host of their own",
    "cell": "it has peers with a replicated log, and not one scheduler",
}


class Pids(NamedTuple):
    """The processes of a peer, or of a worker (its nanny and the worker); None: it does not run."""

    daemon: int | None
    engine: int | None


class Target(Protocol):
    """See the module. Peers and workers go by their names."""

    @property
    def name(self) -> str:
        """The kind, as ``loopback``."""

    @property
    def abilities(self) -> frozenset[str]:
        """A part of ``ABILITIES``."""

    @property
    def peers(self) -> tuple[str, ...]:
        """Known before ``start``."""

    @property
    def workers(self) -> tuple[str, ...]: ...

    @property
    def address(self) -> str:
        """For clients; after ``start``."""

    @property
    def root(self) -> Path:
        """Where it keeps its own files."""

    def start(self) -> None:
        """Returns when it serves and has its workers. Raises ``TargetFailed``."""

    def stop(self) -> None:
        """End what ``start`` began, whatever state it is in; idempotent."""

    # -- peers

    def pids(self, peer: str) -> Pids: ...

    def signal(self, peer: str, part: Part, signum: Signals) -> None:
        """To what runs of it; a peer that has been killed is gone when this returns."""

    def restart(self, peer: str) -> None:
        """Kill what runs of it and start it on its data; does not wait until it serves."""

    def environment(self, peer: str) -> dict[str, str]:
        """That of its next start, to be changed in place."""

    def options(self, peer: str) -> list[str]:
        """Further words of the command line of its next start, to be changed in place."""

    def directory(self, peer: str) -> Path:
        """Its data directory."""

    def log(self, peer: str) -> Path: ...

    # -- what the peers say

    @property
    def control(self) -> ControlClient | None:
        """For an admin's requests."""

    def statuses(self) -> Mapping[str, Mapping[str, Any]]:
        """The status of each peer that answers, as ``protocol.control.Status``."""

    def leader(self) -> str | None:
        """Who leads and serves at this moment."""

    def ready(self) -> bool:
        """Whether all peers agree on a leader and each has an engine that could lead, and all
        workers are there."""

    # -- workers

    def worker_pids(self, worker: str) -> Pids: ...

    def worker_log(self, worker: str) -> Path: ...

    def signal_worker(self, worker: str, part: Part, signum: Signals) -> None: ...

    def restart_worker(self, worker: str) -> None: ...

    # -- clients

    def spawn_client(
        self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Run Python with these arguments where clients are, its stdin a pipe.

        ``environment`` is added to that of a client.
        """


class TargetFailed(Exception):
    """Harness: the target did not start or come back; the text has the end of its logs."""
