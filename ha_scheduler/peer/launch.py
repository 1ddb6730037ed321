"""The first lines of an engine's life: have the kernel end it with its daemon, then become it.

Guarantee: once the engine's own code runs, the death of the daemon by any cause (``kill -9``
included) ends the engine by SIGKILL. A daemon that died before the request is noticed by the
changed parent.

A module in the engine's own process and not a ``preexec_fn``: the daemon has a writer thread, and
Python code between fork and exec of a threaded process may deadlock.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent_pid: int) -> None:
    """From now on the end of ``parent_pid`` ends this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(1)  # the daemon died before it could be bound to us


def main() -> None:
    """``launch.py <daemon pid> <engine module> <its arguments>``."""
    parent_pid, module, *arguments = sys.argv[1:]
    die_with_parent(int(parent_pid))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
