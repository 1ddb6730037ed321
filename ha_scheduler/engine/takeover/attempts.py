"""Attempts of a task: retries left, and workers that died under it.

Guarantee: both counts go on under a new leader. A task that kills its workers ends as
``KilledWorker`` after ``allowed-failures`` of them, and one with two retries is retried twice,
however many leaders it sees.

Order: a count is recorded when it changes, and deleted when its task is forgotten. A follower keeps
the counts and sets them on its tasks when it is about to lead.
"""

from __future__ import annotations

from typing import Any

from distributed.scheduler import TaskState
from distributed.worker_state_machine import RUN_ID_SENTINEL

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.tables import Table

ATTEMPTS = "attempts"  # key → retries left, workers lost, the last run whose failure took a retry

Attempt = tuple[int, int, int]


class Attempts(SchedulerBase):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attempts: dict[Key, Attempt] = {}
        self._attempts = self.tables.add(
            Table(
                ATTEMPTS,
                self.attempts,
                lead=self._restore_attempts,
                void_on_restart=True,
                of_tasks=True,
            )
        )

    def stimulus_task_erred(
        self, worker: str, stimulus_id: str, key: Key, run_id: int, **kwargs: Any
    ) -> Any:
        """As upstream's, which may use up a retry."""
        ts = self.tasks.get(key)
        before = ts.retries if ts is not None else 0
        result = super().stimulus_task_erred(
            worker=worker, stimulus_id=stimulus_id, key=key, run_id=run_id, **kwargs
        )
        if ts is not None and ts.retries != before:
            self.note_attempt(ts, run_id)
        return result

    def was_counted(self, key: Key, run_id: int) -> bool:
        """Whether this run's failure used up a retry, and is no outcome."""
        return run_id <= self._last_failed(key)

    async def remove_worker(self, address: str, **kwargs: Any) -> Any:
        """As upstream's, which counts the loss against the tasks that ran."""
        ws = self.workers.get(address)
        running = list(ws.processing) if ws is not None else []
        before = [ts.suspicious for ts in running]
        result = await super().remove_worker(address, **kwargs)
        pairs = zip(running, before, strict=True)
        for ts, count in pairs:
            if ts.suspicious != count:
                self.note_attempt(ts, self._last_failed(ts.key))
        return result

    def note_attempt(self, ts: TaskState, failed_run: int) -> None:
        key: Key = ts.key
        if key in self.tasks:
            row = self._attempts.set(key, (ts.retries, ts.suspicious, failed_run))
            self.transactions.note(row)

    def _last_failed(self, key: Key) -> int:
        count = self.attempts.get(key)
        return RUN_ID_SENTINEL if count is None else count[2]

    def _restore_attempts(self) -> None:
        """Set the tasks' counts; delete those without a task."""
        for key, (retries, suspicious, _) in list(self.attempts.items()):
            ts = self.tasks.get(key)
            if ts is None:
                self.transactions.note(self._attempts.delete(key))
            else:
                ts.retries, ts.suspicious = retries, suspicious
