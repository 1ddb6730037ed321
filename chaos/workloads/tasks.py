"""Functions that run on workers, and that leave a line for each of their executions."""

from __future__ import annotations

import os
import time
from typing import Any

from chaos.workloads.session import leave_line

EXECUTIONS = "executions"


def counted(directory: str, key: str, seconds: float, value: Any, *inputs: Any) -> Any:
    """Returns ``value``; the line is there before anything else happens."""
    leave_line(directory, EXECUTIONS, key, os.getpid(), f"{time.time():.6f}")
    time.sleep(seconds)
    return value


def busy(directory: str, key: str, seconds: float, value: Any) -> Any:
    """As ``counted``, but it keeps its processor busy."""
    leave_line(directory, EXECUTIONS, key, os.getpid(), f"{time.time():.6f}")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))
    return value


def failing(directory: str, key: str) -> Any:
    """A task that fails on purpose."""
    leave_line(directory, EXECUTIONS, key, os.getpid(), f"{time.time():.6f}")
    raise ZeroDivisionError(key)
