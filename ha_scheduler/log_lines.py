"""Log lines of daemons and engines: one sentence for a person, then ``action=…``, a stable key.

The sentence may be reworded in any release; alerts and searches use the key of ``extra={"action":
"leader_changed"}``: words with ``_`` between. ``docs/operations/log-messages.md`` lists every key
from WARNING up. Times have a zone: the nodes of a cell may have several.

As JSON each line is an object with ``time``, ``level``, ``logger``, ``message``, ``action`` and
``error`` (the traceback) as far as there are such, and ``process``: ``peer`` or ``engine``.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime

FORMATS = ("text", "json")
#: Tells an engine the form of its daemon's lines.
VARIABLE = "DASK_HA_LOG_FORMAT"


def formatter(style: str, process: str = "peer") -> logging.Formatter:
    """That of ``FORMATS``, for one kind of process."""
    return JsonFormatter(process) if style == "json" else ActionFormatter(process)


class ActionFormatter(logging.Formatter):
    """Time, level, logger, sentence, and the action key if the record has one."""

    def __init__(self, process: str = "peer") -> None:
        middle = "" if process == "peer" else f"{process} "
        super().__init__(f"%(asctime)s %(levelname)s {middle}%(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return moment(record.created)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without its traceback."""
        line = super().formatMessage(record)
        action = getattr(record, "action", None)
        return f"{line} [action={action}]" if action else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, process: str = "peer") -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": moment(record.created),
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if action := getattr(record, "action", None):
            line["action"] = action
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def restyle(wanted: logging.Formatter) -> None:
    """Have every handler write such lines: libraries bring handlers of their own."""
    named = map(logging.getLogger, list(logging.root.manager.loggerDict))
    for logger in (logging.getLogger(), *named):
        for handler in logger.handlers:
            handler.setFormatter(wanted)


def moment(at: float) -> str:
    """As RFC 3339, in local time with its offset."""
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")
