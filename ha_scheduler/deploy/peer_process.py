"""A peer of a local cell: the ``dask-ha-scheduler`` daemon, with the engine as its child.

To try on it: kill it, kill its engine only, freeze it, start it again on its data.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ha_scheduler.deploy.child import REAP_TIMEOUT_S, ChildProcess
from ha_scheduler.errors import ControlError
from ha_scheduler.protocol.control import Status

MODULE = "ha_scheduler.cli.main"

#: Asks a peer by name for its status; raises ``ControlError``.
Ask = Callable[[str], Status]
#: Runs a coroutine function of the cluster on its loop, as ``Cluster.sync`` does.
Restart = Callable[["PeerProcess"], Any]


class PeerProcess(ChildProcess):
    """One peer of a ``LocalHACluster``."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        ask: Ask,
        restart: Restart,
    ) -> None:
        super().__init__(name, MODULE, arguments, directory / "output.log", environment)
        self._ask = ask
        self._restart = restart

    @property
    def status(self) -> str:
        """Its role (``"leader"``, ``"follower"`` …), or ``"paused"``, ``"dead"``, or
        ``"unreachable"`` if it runs and does not answer.
        """
        if not self.alive:
            return "dead"
        if self.paused:
            return "paused"
        try:
            return self._ask(self.name).role
        except ControlError:
            return "unreachable"

    @property
    def engine_pid(self) -> int | None:
        """The process id of the engine, or None between two engines."""
        return self.child_pid

    def kill_engine(self) -> int:
        """SIGKILL to the engine alone; returns its pid once it has ended.

        The daemon transfers leadership if it leads, and starts a fresh engine.
        """
        self._require_alive("kill the engine of")
        pid = self.engine_pid
        if pid is None:
            raise RuntimeError(f"peer {self.name} has no engine at the moment")
        handle = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            ended.poll(REAP_TIMEOUT_S * 1000)
        finally:
            os.close(handle)
        return pid

    def restart(self) -> Any:
        """Kill it if it runs, and start it again on its data; waits until it serves.

        With an asynchronous cluster this returns an awaitable.
        """
        return self._restart(self)
