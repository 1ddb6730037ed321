"""Access to the internals of distributed's ``ConnectionPool``.

Guarantee: after ``drop_pooled`` no call, in flight or to come, waits for a former process at
``address``. Comms are aborted, not closed: closing flushes, and a frozen process takes no bytes.
The pool then does its accounting, as for any broken comm (core.py:1424 and 1531).

A worker and the client of its tasks may share a pool, so an attempt may be ending already.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ha_scheduler.comm.address import Endpoint, parse_endpoint


def drop_pooled(pool: Any, address: str, reason: str, spared: Endpoint | None = None) -> None:
    """Abort every pooled comm to ``address``, idle, in use or being made. Idempotent.

    ``spared``: comms that are connected to this peer of a cell go on.
    """
    for comms in (pool.available, pool.occupied):
        for comm in list(comms.get(address, ())):
            if spared is None or comm.closed() or parse_endpoint(comm.peer_address) != spared:
                comm.abort()
    for cancel in list(pool._connecting.get(address, ())):
        with contextlib.suppress(RuntimeError):  # ``asyncio.Timeout``: it is expiring
            cancel(reason)
