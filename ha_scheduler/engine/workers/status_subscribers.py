"""Cluster objects that watch a leader's workers, and what they decide of them.

Guarantee: each subscriber hears of every worker that comes or goes. Upstream has one, by the name
of its plugin (scheduler.py:9324): a second one silences the first.

A worker with tasks of graphs that the leader does not know yet is not idle: their client is about
to resubmit them, and ``Adaptive`` would close it until then. Nor is a leader idle that still waits
for workers or clients.
"""

from __future__ import annotations

import uuid
from typing import Any

from distributed.scheduler import WorkerStatusPlugin

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.clients.registration import Clients


class StatusSubscriber(WorkerStatusPlugin):
    def __init__(self, scheduler: SchedulerBase, comm: Any) -> None:
        vars(self)["name"] = f"worker-status-{uuid.uuid4().hex}"  # upstream has it on the class
        super().__init__(scheduler, comm)


class StatusSubscribers(Clients):
    def subscribe_worker_status(self, comm: Any) -> dict[str, Any]:
        StatusSubscriber(self, comm)
        info: dict[str, Any] = self.identity()
        for worker in info["workers"].values():
            del worker["metrics"], worker["last_seen"]
        return info

    def workers_to_close(self, *args: Any, **how: Any) -> list[str]:
        """As upstream's, without the holders of orphans."""
        to_close = super().workers_to_close(*args, **how)
        attribute = how.get("attribute", "address")
        kept = {
            getattr(self.workers[worker], attribute) for worker in self.adoption.orphans.owners()
        }
        return [worker for worker in to_close if worker not in kept]

    def check_idle(self) -> float | None:
        """As upstream's, once all who are awaited are back or given up."""
        awaited = any(client in self.clients for client in self._awaited_clients)
        if awaited or self.adoption.orphans or not self.recovery.is_open:
            self.idle_since = None
            return None
        since: float | None = super().check_idle()
        return since
