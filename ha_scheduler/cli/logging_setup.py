"""The log of a daemon: where it goes, and that it can be rotated.

Guarantee: with ``--log-file`` all that this process and its engines write to standard error is in
that file, and after ``reopen`` in the file that then has its name: nothing is lost in between,
since the descriptor is exchanged in one step (``dup2``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from pathlib import Path

from ha_scheduler.errors import OperatorError
from ha_scheduler.log_lines import FORMATS, formatter

__all__ = ["FORMATS", "LEVELS", "LogFile", "set_up_logging"]

LEVELS = ("debug", "info", "warning", "error", "critical")
_MODE = 0o640
_PIPE_BYTES = 64 * 1024


class LogFile:
    """Standard error, in a file."""

    def __init__(self, path: Path) -> None:
        """Raises ``OperatorError``."""
        self._path = path.absolute()
        try:
            self._exchange()
        except OSError as error:
            raise OperatorError(
                f"--log-file {path} cannot be opened: {error.strerror}; name a file in a directory "
                f"that this user can write to."
            ) from error

    def reopen(self) -> None:
        """Go on in the file that has the name now; in the old one if there can be none."""
        try:
            self._exchange()
        except OSError as error:
            logging.getLogger(__name__).error(
                "the log file %s cannot be opened anew (%s): the log goes on in the former one",
                self._path,
                error.strerror,
                extra={"action": "log_file_lost"},
            )

    def for_engines(self) -> int:
        """A descriptor for the standard error of engines, which cannot open the file anew: a thread
        passes on what they write.
        """
        pipe, engines = os.pipe()
        threading.Thread(target=self._pass_on, args=(pipe,), daemon=True).start()
        return engines

    def _pass_on(self, pipe: int) -> None:
        while data := os.read(pipe, _PIPE_BYTES):
            with contextlib.suppress(OSError):  # a full disk: the engine is not to wait for it
                os.write(2, data)

    def _exchange(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, _MODE)
        with contextlib.suppress(ValueError):  # pytest has taken it away
            sys.stderr.flush()
        os.dup2(descriptor, 2)
        os.close(descriptor)


def set_up_logging(level: str, style: str = FORMATS[0]) -> None:
    """Write all records of at least ``level`` to stderr, and Python's warnings too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(style))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    set_level(level)
    logging.captureWarnings(capture=True)


def set_level(level: str) -> None:
    root = logging.getLogger()
    root.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(max(root.level, logging.WARNING))  # its debug is noise
