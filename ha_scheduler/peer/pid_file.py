"""The PID file of a daemon.

Guarantee: it is made new, where nothing is, so no link that somebody has put there is followed and
nothing but a number is replaced, which is what a killed daemon leaves behind. That no other daemon
runs is the affair of the data directory's lock.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ha_scheduler.errors import OperatorError

_BYTES_MAX = 32  # a number and a line end


def check(path: Path) -> None:
    """Whether ``write`` would have its way. Raises ``OperatorError``."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise OperatorError(
            f"The PID file {path} is no file but a link or the like, which is not followed; "
            f"remove it, or name another one with --pid-file."
        )
    said = _read(path)
    if said.strip() and not said.strip().isdigit():
        raise OperatorError(
            f"The PID file {path} holds something else, which is not overwritten; name another "
            f"one with --pid-file."
        )


def write(path: Path) -> None:
    """Make it. Raises ``OperatorError``."""
    check(path)
    path.unlink(missing_ok=True)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        raise OperatorError(
            f"The PID file {path} cannot be written: {error.strerror}; name another one with "
            f"--pid-file."
        ) from error
    with open(descriptor, "w") as file:
        file.write(f"{os.getpid()}\n")


def _read(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, errors="replace") as file:
        return file.read(_BYTES_MAX)
