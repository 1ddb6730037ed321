"""What each change of leaders has distributed log, said as what it is.

Guarantee: a connection that ended because a leader is gone, or another one was found first, is one
sentence of INFO, and no warning or traceback: whoever had it makes another. Nothing is hidden, and
nothing else is touched.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable

from distributed.comm import CommClosedError

#: Who began to connect hung up: it found the leader elsewhere, or only looked who is there.
_HUNG_UP = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError)


def _ended(record: logging.LogRecord) -> bool:
    """batched.py:122 and core.py:804, with a traceback."""
    if record.exc_info and isinstance(record.exc_info[1], CommClosedError):
        record.exc_info = record.exc_text = None
    return False


def _left_behind(record: logging.LogRecord) -> bool:
    """comm/tcp.py:202 and 736: an attempt that was given up, by this side or the other."""
    if str(record.msg).startswith("Closing dangling stream"):
        return True
    failed = "TLS handshake failed" in str(record.msg) and isinstance(record.args, tuple)
    return bool(failed and record.args and isinstance(record.args[-1], _HUNG_UP))  # type: ignore[index]


class _Quieter(logging.Filter):
    def __init__(self, is_info: Callable[[logging.LogRecord], bool]) -> None:
        super().__init__()
        self._is_info = is_info

    def filter(self, record: logging.LogRecord) -> bool:
        if self._is_info(record) and record.levelno > logging.INFO:
            record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
            return logging.getLogger(record.name).isEnabledFor(logging.INFO)
        return True


_FILTERS = {
    "distributed.batched": _Quieter(_ended),
    "distributed.core": _Quieter(_ended),
    "distributed.comm.tcp": _Quieter(_left_behind),
}


def install() -> None:
    """Of this process. Idempotent: a logger has a filter once."""
    for name, quieter in _FILTERS.items():
        logging.getLogger(name).addFilter(quieter)
