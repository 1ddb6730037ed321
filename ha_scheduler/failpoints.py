"""Places at which a test can kill or hold up this process, and nothing otherwise.

``DASK_HA_FAILPOINTS`` is a directory, and a file in it with the name of a failpoint is a token. The
first process that reaches the failpoint takes the token and ends, as by ``kill -9``; no other does.
If the token holds a number, it sleeps there for that many seconds instead.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

VARIABLE = "DASK_HA_FAILPOINTS"


def armed(directory: Path) -> Callable[[str], None]:
    """The ``reach`` of a process whose failpoints are in ``directory``."""

    def reach(name: str) -> None:
        token = directory / name
        try:
            seconds = token.read_text()
            token.unlink()
        except FileNotFoundError:
            return
        if seconds:
            time.sleep(float(seconds))
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    return reach


def _disarmed(name: str) -> None:
    """No test."""


reach = armed(Path(os.environ[VARIABLE])) if os.environ.get(VARIABLE) else _disarmed
