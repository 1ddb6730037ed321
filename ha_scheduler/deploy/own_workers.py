"""``Adaptive`` for one of several clusters of a cell: it closes its own workers alone.

Upstream's takes all workers of a scheduler for its own: two of them would close each other's. Here
each asks for what the cell lacks beside the others' workers, and closes only those that it has
started. Two that ask at the same moment may both start workers, and both let go of them again.
"""

from __future__ import annotations

from typing import Any

from distributed.deploy.adaptive import Adaptive
from distributed.protocol import pickle


class OwnWorkersAdaptive(Adaptive):
    """As upstream's; ``observed`` and what is closed are the cluster's own workers."""

    @property
    def observed(self) -> set[Any]:
        """Those of the cluster's workers that are in the cell."""
        own: set[Any] = self.cluster.observed & self.plan
        return own

    async def target(self) -> int:
        """What the cell needs beside others' workers."""
        others = len(self.cluster.observed - self.plan)
        return max(0, int(await super().target()) - others)

    async def workers_to_close(self, target: int) -> list[str]:
        """The cheapest of the cluster's own, idle ones first."""
        cheapest = await self.scheduler.workers_to_close(
            target=0,  # all that may be closed, in the order in which they are to be
            key=pickle.dumps(self.worker_key) if self.worker_key else None,
            attribute="name",
            **self._workers_to_close_kwargs,
        )
        own = [name for name in cheapest if name in self.plan]
        return own[: max(0, len(self.plan) - target)]
