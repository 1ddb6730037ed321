"""The one place that reaches into distributed's ``ConnectionPool``.

Guarantee: after ``drop_pooled`` no call in flight or to come waits for a process that was behind
``address`` before. Comms are aborted, not closed: closing flushes, and a frozen process takes no
bytes. The pool itself then does its accounting, as for any comm that broke (core.py:1424 and 1531).
"""

from __future__ import annotations

from typing import Any


def drop_pooled(pool: Any, address: str, reason: str) -> None:
    """Abort every pooled comm to ``address``, idle, in use or being made."""
    for comms in (pool.available, pool.occupied):
        for comm in list(comms.get(address, ())):
            comm.abort()
    for cancel in list(pool._connecting.get(address, ())):
        cancel(reason)
