"""The end of a worker that is known before: its lifetime, and the SIGTERM of who ends its job.

Guarantee: a leader knows how long a worker with a lifetime will be there, so that another is asked
for before it goes. A worker or nanny that gets SIGTERM has its results moved to others first, for
at most ``hand-over-timeout``; batch systems kill some 30 s later. Who means it at once sends the
signal twice, or SIGINT.

Upstream ends a worker at SIGTERM with all that it holds. Who ends a job signals every process of
it: a worker that has a nanny leaves the signal to that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from time import monotonic
from typing import Any

import dask
from dask.utils import parse_timedelta

from ha_scheduler.protocol.worker import LIFETIME, LIFETIME_LEFT

logger = logging.getLogger("distributed.worker.ha")

HAND_OVER_TIMEOUT = "ha-scheduler.worker.hand-over-timeout"
HAND_OVER_TIMEOUT_DEFAULT = "20s"
LEADER_S = 3.0  # without a leader nobody can take anything over
TERMINATED = f"signal-{int(signal.SIGTERM)}"  # the reason that `dask worker` gives (cli:430)


def tell_lifetime(worker: Any) -> None:
    """Have the worker tell in its metrics how long it will be there; nothing without a lifetime."""
    if not worker.lifetime:
        return
    lifetime, ends = float(worker.lifetime), monotonic() + float(worker.lifetime)
    worker.metrics[LIFETIME] = lambda _: lifetime
    worker.metrics[LIFETIME_LEFT] = lambda _: max(0.0, ends - monotonic())


def leave_signal_to_nanny() -> None:
    """In the process of a worker with a nanny: the first SIGTERM is the nanny's to answer."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return  # somebody has thought about it
    owner = os.getpid()

    def handle(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:  # a fork of a task's, for which it was meant
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, handle)


async def hand_over(scheduler: Any, address: str, reason: str) -> None:
    """Have the leader move the results of the worker at ``address``, if SIGTERM ends it."""
    limit = dask.config.get(HAND_OVER_TIMEOUT, HAND_OVER_TIMEOUT_DEFAULT)
    limit_s = float(parse_timedelta(limit, default="s"))
    if reason != TERMINATED or not limit_s:
        return
    try:
        async with asyncio.timeout(min(LEADER_S, limit_s)):
            await scheduler.identity(n_workers=0)
        async with asyncio.timeout(limit_s):
            await scheduler.retire_workers(workers=[address], close_workers=False, remove=True)
    except Exception as error:  # whatever the leader makes of it, the worker ends
        why = error or type(error).__name__
        logger.warning(
            "The worker at %s ends with what it holds: %s",
            address,
            why,
            extra={"action": "worker_ends_unsaved"},
        )
