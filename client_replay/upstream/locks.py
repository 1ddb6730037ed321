"""``Lock.acquire`` of a lock that the cell has forgotten.

A cell forgets a lock that is idle for a while: Dask closes few of them, and the ledger would keep
each name for ever. Whoever uses it again registers it once more and notices nothing. A closed one
stays closed, and upstream's error says so.
"""

from __future__ import annotations

from typing import Any

from distributed import Semaphore

from client_replay.calls.rpc import SchedulerRPC

_acquire = Semaphore._acquire


async def _acquire_or_register(semaphore: Any, timeout: Any = None) -> Any:
    try:
        return await _acquire(semaphore, timeout)
    except RuntimeError:
        rpc = semaphore.scheduler
        if not isinstance(rpc, SchedulerRPC) or not await rpc.has_forgotten_lock(semaphore.name):
            raise
    semaphore._registered = False
    return await _acquire(semaphore, timeout)


def install() -> None:
    """Replace the method; idempotent."""
    Semaphore._acquire = _acquire_or_register  # type: ignore[method-assign]
