"""Whom a signal to a part of a process with a child reaches: a daemon and its engine, a nanny and
its worker.

A process that ``send`` kills has ended when it returns.
"""

from __future__ import annotations

import contextlib
import os
import select
from signal import SIGKILL, Signals, pidfd_send_signal

from chaos.targets.base import Part, Pids
from ha_scheduler.deploy.child import REAP_TIMEOUT_S, ChildProcess


def signal_child(child: ChildProcess, part: Part, signum: Signals) -> None:
    """To the parts of ``child`` that run."""
    if part != "engine" and signum is SIGKILL:
        child.kill()  # also ends what a daemon alone would leave
        return
    inner = child.child_pid
    wanted = {"daemon": [child.pid], "engine": [inner], "both": [inner, child.pid]}[part]
    for pid in wanted:
        if pid is not None:
            send(pid, signum)


def send(pid: int, signum: Signals) -> None:
    """Nothing, if it has ended."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            pidfd_send_signal(handle, signum)
            if signum is SIGKILL:
                ended = select.poll()
                ended.register(handle, select.POLLIN)
                ended.poll(REAP_TIMEOUT_S * 1000)
        finally:
            os.close(handle)


def pids_of(child: ChildProcess) -> Pids:
    return Pids(child.pid, child.child_pid)
