"""The Nanny that starts workers which follow the leader, and does not depend on one itself.

Guarantee: the worker process is restarted when it dies, whether or not there is a leader at that
time; and the Nanny ends only with its worker's consent. A Nanny has no standing connection, so that
is a matter of three moments: its own start, the death of the worker, and the last word of its
registration, which a lost leader does not hear.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import distributed
from distributed.comm import CommClosedError
from distributed.core import Status

from ha_scheduler.worker.worker import Worker

logger = logging.getLogger("distributed.nanny.ha")

UNREGISTER_S_MAX = 2.0  # a courtesy: the leader finds out by itself, and the worker is waiting


class Nanny(distributed.Nanny):
    """A ``distributed.Nanny`` for workers of a cell."""

    def __init__(self, *args: Any, worker_class: type | None = None, **kwargs: Any) -> None:
        kwargs["worker_class"] = worker_class or Worker
        super().__init__(*args, **kwargs)
        self._setup_following()

    def _setup_following(self: Any) -> None:
        # The class goes to the worker process by name, so only one that has a name can go. A
        # subclass of the user's is upgraded there, by the preload.
        if self.Worker is distributed.Worker:
            self.Worker = Worker
        elif not issubclass(self.Worker, Worker):
            logger.debug("%r follows the leader by the preload", self.Worker)

    async def start_unsafe(self: Any) -> Any:
        try:
            return await super().start_unsafe()
        except CommClosedError:
            process = self.process
            if process is None or process.status != Status.running:
                raise
            # The leader was lost while the worker started (nanny.py:359). The worker has found the
            # next one; only the Nanny's "ok" did not arrive, and nobody waits for it any more.
            self.start_periodic_callbacks()
            return self

    async def _unregister(self: Any, timeout: float = UNREGISTER_S_MAX) -> None:
        try:
            async with asyncio.timeout(timeout):
                await super()._unregister(timeout)
        except (OSError, TimeoutError) as error:
            logger.info("No leader heard that the worker is gone: %s", error)


def upgrade(nanny: Any) -> None:
    """Make ``nanny``, whose worker has not been started yet, one for workers of a cell."""
    if isinstance(nanny, Nanny):
        return
    kind = type(nanny)
    nanny.__class__ = Nanny if kind is distributed.Nanny else type(kind.__name__, (Nanny, kind), {})
    nanny._setup_following()
