"""Log lines of a daemon: one sentence for a person, then ``action=…``, a stable key.

The sentence may be reworded in any release; alerts and searches use the key of ``extra={"action":
"leader_elected"}``. The operator's documentation lists every key.
"""

from __future__ import annotations

import logging
import sys

LEVELS = ("debug", "info", "warning", "error", "critical")

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class ActionFormatter(logging.Formatter):
    """Time, level, logger, sentence, and the action key if the record has one."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without its traceback."""
        line = super().formatMessage(record)
        action = getattr(record, "action", None)
        return f"{line} [action={action}]" if action else line


def set_up_logging(level: str) -> None:
    """Write all records of at least ``level`` to stderr, and Python's warnings too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ActionFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(max(root.level, logging.WARNING))  # its debug is noise
    logging.captureWarnings(capture=True)
