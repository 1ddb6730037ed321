"""``Adaptive`` whose goal is kept by the cell: what ``adapt`` of an attached cluster starts.

The leader decides how many workers the cluster should have and which may go
(``engine/scaling``); this object asks it at each ``interval``, and starts and ends them. So several
clusters of a cell may be adaptive, the goal outlives leaders and this process, and a worker whose
lifetime ends soon is replaced before it goes.

A cluster that closes withdraws its goal. One whose process dies leaves it: another one of the same
name takes it up, and meanwhile others are not kept waiting for it.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from distributed.deploy.adaptive import Adaptive

from ha_scheduler.protocol.client import Scale, Unscale
from ha_scheduler.protocol.codec import tag_of

logger = logging.getLogger("distributed.deploy.ha")


class LeaderAdaptive(Adaptive):
    """As upstream's; ``observed`` and what is closed are the cluster's own workers.

    Raises ``TypeError`` for what upstream would pass on to ``workers_to_close``: the leader
    chooses.
    """

    def __init__(self, cluster: Any, worker_key: Any = None, **kwargs: Any) -> None:
        super().__init__(cluster, worker_key=worker_key, **kwargs)
        if worker_key is not None or self._workers_to_close_kwargs:
            self.stop(reason="refused")
            unknown = ", ".join(["worker_key", *self._workers_to_close_kwargs])
            raise TypeError(
                f"the leader chooses who goes, without {unknown}; give adapt "
                "Adaptive=distributed.deploy.Adaptive, or leave them out"
            )
        self._leaving: list[str] = []

    @property
    def observed(self) -> set[Any]:
        """Those of the cluster's workers that are in the cell."""
        own: set[Any] = self.cluster.observed & self.plan
        return own

    async def safe_target(self) -> int:
        """Also those beyond the maximum that end soon, beside who takes their place."""
        return await self.target()

    async def target(self) -> int:
        """How many workers the leader wants of this cluster, with those that end soon."""
        maximum = None if math.isinf(self.maximum) else int(self.maximum)
        said = await self._ask(
            Scale,
            owner=str(self.cluster.name),
            minimum=int(self.minimum),
            maximum=maximum,
            target_s=float(self.target_duration),
        )
        by_text = {str(name): name for name in self.plan}
        self._leaving = [by_text[name] for name in said["leaving"] if name in by_text]
        return int(said["total"])

    async def workers_to_close(self, target: int) -> list[str]:
        """Who the leader says may go, idle ones first."""
        return self._leaving[: max(0, len(self.plan) - target)]

    async def withdraw(self) -> None:
        """The cluster closes: the cell need not have workers for it."""
        await self._ask(Unscale, owner=str(self.cluster.name))

    async def _ask(self, kind: type[Any], **fields: Any) -> Any:
        return await getattr(self.scheduler, tag_of(kind))(**fields)
