"""Places at which a test can kill this process, and nothing otherwise.

``DASK_HA_FAILPOINTS`` is a directory, and a file in it with the name of a failpoint is a token. The
first process that reaches the failpoint takes the token and ends, as by ``kill -9``; no other does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

VARIABLE = "DASK_HA_FAILPOINTS"


def armed(directory: Path) -> Callable[[str], None]:
    """The ``reach`` of a process whose failpoints are in ``directory``."""

    def reach(name: str) -> None:
        try:
            os.unlink(directory / name)
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    return reach


def _disarmed(name: str) -> None:
    """No test."""


reach = armed(Path(os.environ[VARIABLE])) if os.environ.get(VARIABLE) else _disarmed
