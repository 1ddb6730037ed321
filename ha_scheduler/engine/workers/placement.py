"""Placement of the tasks that waited for workers.

Guarantee: workers that join together are all there before anything is placed, so each task goes
where its inputs are, and no worker is given everything because it came first.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from distributed.scheduler import Recs, TaskState, WorkerState

from ha_scheduler.engine.step import Step
from ha_scheduler.engine.takeover.withheld import WithheldTasks


class Placement(WithheldTasks):
    def _join(self, statuses: dict[str, str], stimulus_id: str) -> None:
        """Let these workers work; nothing is placed before all of them can be chosen."""
        with self.during(Step(joining=True)):
            for address, status in statuses.items():
                self.handle_worker_status_change(status, address, stimulus_id)

    def _place_unrunnable(self, stimulus_id: str) -> None:
        """Place what waited for workers, each task where its inputs are.

        Upstream does so for one worker as it comes; here the first would be given everything. Tasks
        that merely prefer an absent worker run elsewhere: upstream, which has a worker from the
        start, never looks for them among the unrunnable. Outputs of shuffles are spread
        (``Shuffles.prepare``).
        """
        placeable = [
            ts
            for ts in self.unrunnable
            if ts not in self.withheld
            and (ts.loose_restrictions or self.valid_workers(ts) != set())
        ]
        placeable.sort(key=attrgetter("priority"), reverse=True)  # the last one is looked at first
        self.transitions(_placing(placeable), stimulus_id)

    def stimulus_queue_slots_maybe_opened(self, *, stimulus_id: str) -> None:
        """As upstream's, once all workers that join together have."""
        if not self.step.joining:
            super().stimulus_queue_slots_maybe_opened(stimulus_id=stimulus_id)

    def bulk_schedule_unrunnable_after_adding_worker(self, ws: WorkerState) -> Recs:
        """As upstream's, and tasks that merely prefer a worker that is not here.

        Upstream looks for them when they become runnable (scheduler.py:9020). A follower has no
        workers then, and the preferred one may never come back.
        """
        if self.step.joining:
            return {}
        recommendations: Recs = super().bulk_schedule_unrunnable_after_adding_worker(ws)
        for ts in self.unrunnable:
            if ts.loose_restrictions and not self.valid_workers(ts):
                recommendations[ts.key] = "processing"
        found = (self.tasks[key] for key in recommendations)
        return _placing(ts for ts in found if ts not in self.withheld)


def _placing(tasks: Iterable[TaskState]) -> Recs:
    """Recommendations for tasks without a worker, now that there may be one.

    Tasks that are never queued go by way of ``released``. So do actors: upstream's strict
    validation does not expect them without a worker (scheduler.py:2177), as they are before a
    leader has one.
    """
    return {ts.key: "processing" if ts._queueable and not ts.actor else "released" for ts in tasks}
