"""Tasks that write down each of their executions, so that running twice is measured, not assumed.

One execution is one 8-byte append to a file of the worker process; appends of that size are atomic.
"""

from __future__ import annotations

import os
import struct
import time
from collections import Counter
from pathlib import Path

_RECORD = struct.Struct("<q")


def counted_sleep(number: int, directory: str, seconds: float) -> int:
    """Record the execution, take ``seconds``, and return a value that depends on ``number``."""
    path = Path(directory) / f"{os.getpid()}.executions"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, _RECORD.pack(number))
    finally:
        os.close(fd)
    time.sleep(seconds)
    return number * 3 + 1


def executions(directory: str | Path) -> Counter[int]:
    """How often each number was executed."""
    counted: Counter[int] = Counter()
    for path in Path(directory).glob("*.executions"):
        counted.update(value for (value,) in _RECORD.iter_unpack(path.read_bytes()))
    return counted


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of the sorted values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
