"""Tasks that wait for workers whose process exists, and that have not reported in time.

A task that holds the interpreter lets nothing of its worker run: such a worker is silent for as
long as that takes, and then reports what it has finished and what it runs. Nobody else knows of it.

Guarantee: what is silent is not taken for gone. What could be run when the barrier opens, and has
been reported by nobody, is neither run nor told as lost before each silent worker has reported, has
ended, or was silent for ``worker-ttl``. All else goes on: what others reported, what follows from
that, and what is submitted.

Order: a late report is adopted before what was withheld is placed, so what the worker has is taken
and the rest runs. What cannot be run yet needs no holding back: it has not been sent to anybody.

Upstream has no state for a task that is withheld. Ours is ``no-worker``, and no worker is found.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import monotonic
from typing import Any

from distributed.scheduler import TaskState, WorkerState

from ha_scheduler.engine.base import SchedulerBase

logger = logging.getLogger(__name__)


class WithheldTasks(SchedulerBase):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.silent: set[str] = set()  # workers that exist, and have not reported
        self.withheld: dict[TaskState, str] = {}  # the state of each before

    def withhold(self) -> None:
        """The barrier opens without the silent workers."""
        if not self.silent:
            return
        for ts in [*self.queued, *self.unrunnable]:
            if ts.run_spec is None:  # scattered data, which waits in its own way
                continue
            self.withheld[ts] = ts.state
            if ts.state == "queued":
                self.queued.discard(ts)
                ts.state = "no-worker"
                self.unrunnable[ts] = monotonic()
        logger.warning(
            "%d tasks wait for %d workers that are there and do not answer: %s.",
            len(self.withheld),
            len(self.silent),
            ", ".join(sorted(self.silent)),
            extra={"action": "tasks_withheld"},
        )

    def spoke(self, workers: Iterable[str]) -> bool:
        """These workers are not silent any more. Whether tasks may now be placed that waited."""
        self.silent.difference_update(workers)
        if self.silent or not self.withheld:
            return False
        withheld, self.withheld = self.withheld, {}
        for ts, state in withheld.items():
            if state == "queued" and ts.state == "no-worker":
                self.unrunnable.pop(ts, None)
                ts.state = "queued"
                self.queued.add(ts)
        return True

    def decide_worker_non_rootish(self, ts: TaskState) -> WorkerState | None:
        """As upstream's, which every task without a worker goes through."""
        return None if ts in self.withheld else super().decide_worker_non_rootish(ts)

    def _check_no_workers(self) -> None:
        """As upstream's, which would have these tasks fail for want of a worker."""
        if not self.withheld:
            super()._check_no_workers()

    def _remove_key(self, key: Any) -> None:
        ts = self.tasks.get(key)
        super()._remove_key(key)
        if ts is not None:
            self.withheld.pop(ts, None)
