"""One process of a local cell: its output in a file, signalled, and never left behind.

Guarantee: when the process that called ``start`` ends, by any cause, the kernel kills the child,
and its own children with it: an engine dies with its daemon, a worker with its nanny. What the
kernel cannot end in order (a frozen grandchild) is swept by ``kill`` and at interpreter exit.

A forked child of that process is another one: to it this is no child (``ha_scheduler/forks.py``).

Trap: the kernel sends that signal when the *thread* that started the child ends. ``start`` belongs
on the thread of the cluster's event loop.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from ha_scheduler.forks import Owner

POLL_S = 0.02
REAP_TIMEOUT_S = 10.0  # after SIGKILL
TAIL_BYTES = 16 * 1024  # of a log

_running: weakref.WeakSet[ChildProcess] = weakref.WeakSet()


class ChildProcess:
    """A Python module that runs as a process of its own."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        log_path: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.name = name
        self.log_path = log_path
        self.environment = dict(environment)  # of the next start
        self.options: list[str] = []  # further words of the next start
        self._module = module
        self._arguments = list(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        self._owner = Owner()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self._state()}>"

    @property
    def is_ours(self) -> bool:
        """Whether this process made it, and not one that forked this."""
        return self._owner.is_here()

    @property
    def pid(self) -> int | None:
        """The process id, or None while it does not run."""
        return self._process.pid if self._process is not None and self.alive else None

    @property
    def alive(self) -> bool:
        """Whether the process exists; a paused one does."""
        self._owner.require(f"the process {self.name}")
        return self._process is not None and self._process.poll() is None

    @property
    def paused(self) -> bool:
        """Whether ``pause`` has frozen it."""
        return self._paused and self.alive

    @property
    def returncode(self) -> int | None:
        """Exit status of the last run; negative: the signal that ended it."""
        self._owner.require(f"the process {self.name}")
        return self._process.poll() if self._process is not None else None

    @property
    def child_pid(self) -> int | None:
        """The first process that it started and that lives, or None."""
        for child in self._children(recursive=False):
            with contextlib.suppress(psutil.NoSuchProcess):
                # A zombie was killed, and its parent has not noticed.
                if child.status() != psutil.STATUS_ZOMBIE:
                    return child.pid
        return None

    def start(self) -> None:
        """Start the process; what it prints is appended to ``log_path``."""
        if self.alive:
            raise RuntimeError(f"{self.name} is already running with pid {self.pid}")
        self._paused = False
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                # Ctrl-C is for the cluster, which ends its children in order.
                start_new_session=True,
            )
        _running.add(self)

    def kill(self) -> None:
        """SIGKILL to the process and everything it started. Returns when it is gone."""
        self._owner.require(f"the process {self.name}")
        if self not in _running or self._process is None:
            return
        family = self._children(recursive=True)
        self._signal(signal.SIGKILL)
        _signal_all(family, signal.SIGKILL)
        self._process.wait(REAP_TIMEOUT_S)
        psutil.wait_procs(family, timeout=REAP_TIMEOUT_S)
        self._sweep()

    def pause(self) -> None:
        """SIGSTOP to the process and everything it started: frozen, with all sockets open."""
        self._require_alive("pause")
        self._signal(signal.SIGSTOP)
        _signal_all(self._children(recursive=True), signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT: undo ``pause``."""
        self._require_alive("resume")
        # The children first: a daemon that wakes alone could take its engine for hung.
        _signal_all(self._children(recursive=True), signal.SIGCONT)
        self._signal(signal.SIGCONT)
        self._paused = False

    async def stop(self, timeout_s: float) -> None:
        """SIGTERM, and after ``timeout_s`` ``kill``."""
        self._owner.require(f"the process {self.name}")
        if self not in _running or self._process is None:
            return
        if self.paused:
            self.resume()
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while self.alive and time.monotonic() < deadline:  # noqa: ASYNC110  # nothing signals it
            await asyncio.sleep(POLL_S)
        if self.alive:
            await asyncio.to_thread(self.kill)
        self._sweep()

    def tail(self) -> str:
        """The last lines of its output."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, self.log_path.stat().st_size - TAIL_BYTES))
                return log.read().decode(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def _state(self) -> str:
        if not self._owner.is_here():
            return "of the process that forked this one"
        if self.paused:
            return f"paused, pid {self.pid}"
        if self.alive:
            return f"running, pid {self.pid}"
        return "not started" if self._process is None else f"ended with status {self.returncode}"

    def _command(self) -> list[str]:
        launcher = [sys.executable, "-m", "ha_scheduler.peer.engine.launch", str(os.getpid())]
        return [*launcher, self._module, *self._arguments, *self.options]

    def _require_alive(self, what: str) -> None:
        if not self.alive:
            raise RuntimeError(f"cannot {what} {self.name}: it is {self._state()}")

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)  # does nothing for a process that has been reaped

    def _children(self, *, recursive: bool) -> list[psutil.Process]:
        """The children, or all descendants, of the process; the oldest first."""
        if not self.alive:
            return []
        assert self._process is not None
        try:
            return psutil.Process(self._process.pid).children(recursive=recursive)
        except psutil.NoSuchProcess:
            return []

    def _sweep(self) -> None:
        """End the rest of the session after the process was reaped."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        _running.discard(self)


def _signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@atexit.register
def _kill_all() -> None:
    for child in list(_running):
        if not child.is_ours:
            continue
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.kill()
