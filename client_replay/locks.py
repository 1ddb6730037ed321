"""``Lock.acquire`` of a lock that the cell has forgotten.

A cell forgets a lock that nobody holds and nobody has used for a while: Dask closes few of them,
and the ledger would keep each name for ever. To whoever uses the lock again nothing has happened:
it is registered once more. One that was closed stays so, and upstream's error says it.
"""

from __future__ import annotations

from typing import Any

from distributed import Semaphore

from client_replay.rpc import SchedulerRPC

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
    """Replace the method. Harmless when repeated."""
    Semaphore._acquire = _acquire_or_register  # type: ignore[method-assign]
