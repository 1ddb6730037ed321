"""Tasks that write down each of their executions, so that running twice is measured, not assumed.

One execution is one 8-byte append to a file of the worker process; appends of that size are atomic.
"""

from __future__ import annotations

import os
import struct
import time
from collections import Counter
from pathlib import Path
from typing import Any

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


def _unknown(dask_scheduler: Any, keys: list[Any]) -> int:
    """How many of the keys would never be computed: the scheduler has no such task."""
    return sum(key not in dask_scheduler.tasks for key in keys)


def verdict(client: Any, futures: list[Any], directory: str | Path) -> dict[str, int]:
    """What became of ``futures`` of ``counted_sleep``; all but ``finished`` must be 0.

    A future that is still pending is lost unless the leader has its task.

    Future ``n`` of the list is the one of number ``n``.
    """
    number_of = {future.key: number for number, future in enumerate(futures)}
    finished = [future for future in futures if future.status == "finished"]
    values = client.gather(finished)
    wrong = sum(
        value != number_of[future.key] * 3 + 1
        for future, value in zip(finished, values, strict=True)
    )
    lost = sum(future.status in ("cancelled", "lost", "error") for future in futures)
    pending = [future.key for future in futures if future.status == "pending"]
    lost += client.run_on_scheduler(_unknown, keys=pending)
    repeated = sum(count - 1 for count in executions(directory).values())
    return {"finished": len(finished), "wrong": wrong, "lost": lost, "repeated": repeated}
