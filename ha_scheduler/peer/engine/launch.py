"""The first lines of an engine's life: confine it, have it end with its daemon, then become it.

Guarantee: once the engine's own code runs, the death of the daemon by any cause (``kill -9``
included) ends the engine by SIGKILL. A daemon that died before the request is noticed by the
changed parent. With a plan, it is confined as that says before any of its code runs; what cannot be
carried out ends it.

Order: the confinement first, since a change of user takes back what the kernel was asked for.

A module in the engine's own process and not a ``preexec_fn``: the daemon has a writer thread, and
Python code between fork and exec of a threaded process may deadlock.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

CONFINED = "--confined"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent_pid: int) -> None:
    """From now on the end of ``parent_pid`` ends this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(1)  # the daemon died before it could be bound to us


def confine(plan: str) -> None:
    """Carry out ``Plan.to_text`` on this process, or end it."""
    from ha_scheduler.confinement.plan import Plan

    try:
        Plan.from_text(plan).carry_out()
    except OSError as error:
        sys.exit(f"This engine cannot be confined, so it does not start: {error.strerror}.")


def main() -> None:
    """``launch.py <daemon pid> [--confined PLAN] <engine module> <its arguments>``."""
    parent_pid, *rest = sys.argv[1:]
    if rest[0] == CONFINED:
        confine(rest[1])
        del rest[:2]
    module, *arguments = rest
    die_with_parent(int(parent_pid))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
