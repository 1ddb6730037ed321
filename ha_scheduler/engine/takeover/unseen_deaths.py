"""Workers that died under a task while nobody led.

Guarantee: such a death counts against its task once, as one that a leader saw, if anybody can tell
what the worker ran:

- A task under which a worker has died already is *on trial*: where each further run of it goes on
  is recorded. A later leader that finds that worker gone counts the death before anything is
  placed, so a task is never tried more often than ``allowed-failures`` says.
- Of any other task the dead worker's own successor tells, which its Nanny starts
  (``worker/executing.py``). It may come after the task was given to somebody else; no run is the
  last one then.

Nobody can tell of the first death under a task if its worker has no Nanny.

Order: a run that is counted is recorded as counted in the same step, so that its worker's
successor, which says the same to every leader, is believed once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from distributed.core import Status
from distributed.protocol.pickle import dumps
from distributed.scheduler import KilledWorker, TaskState, WorkerState
from distributed.worker_state_machine import RUN_ID_SENTINEL

from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.tables import Table
from ha_scheduler.engine.takeover.attempts import Attempts
from ha_scheduler.engine.takeover.consequences import Consequences

logger = logging.getLogger(__name__)

TRIALS = "trials"  # key → its latest run that matters, and where it goes on; "" once it counts
_OUTCOMES = ("memory", "erred", "forgotten")


class UnseenDeaths(Attempts):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trials: dict[Key, tuple[int, str]] = {}
        self._trials = self.tables.add(
            Table(
                TRIALS,
                self.trials,
                lead=self._end_trials,
                void_on_restart=True,
                of_tasks=True,
            )
        )
        self._killers: dict[TaskState, str] = {}  # that are to fail → the last worker

    async def remove_worker(self, address: str, **kwargs: Any) -> Any:
        """As upstream's, which counts the loss against the tasks that ran."""
        ws = self.workers.get(address)
        before = {ts: (_run(ts), ts.suspicious) for ts in ws.processing} if ws else {}
        result = await super().remove_worker(address, **kwargs)
        for ts, (run, count) in before.items():
            if ts.suspicious != count and run > self._latest_run(ts.key):
                self._note_trial(ts, run, "")
        return result

    def on_trial(self, ts: TaskState) -> None:
        """A task under which a worker has died is sent to another one."""
        if ts.processing_on is not None:
            self._note_trial(ts, _run(ts), ts.processing_on.address)

    def worker_died(self, address: str) -> None:
        """A worker of an earlier leader has ended, and none has seen it."""
        for key, (run, where) in list(self.trials.items()):
            if where == address:
                self._count(key, run, address)
        if self.recovery.is_open:
            self.fail_killers(f"ha-died-{address}")

    def died_with_runs(self, worker: str, runs: Iterable[tuple[Key, int]]) -> None:
        """The process before ``worker``, under the same Nanny, ended while it executed these."""
        for key, run in runs:
            latest, where = self.trials.get(key, (RUN_ID_SENTINEL, ""))
            if run > latest or (run == latest and where):
                self._count(key, run, worker)

    def _count(self, key: Key, run: int, worker: str) -> None:
        ts = self.tasks.get(key)
        if ts is None or ts.state in _OUTCOMES or not self.runs.is_present(key, run):
            return
        goes_on = ts.processing_on
        if goes_on is not None and ts.run_id == run:
            return  # the removal of its worker counts it
        ts.suspicious += 1
        ts.prefix.suspicious += 1
        self.note_attempt(ts, self._last_failed(key))
        if goes_on is not None:
            self._note_trial(ts, _run(ts), goes_on.address)
            return
        self._note_trial(ts, run, "")
        if ts.suspicious > self.allowed_failures:
            self._killers[ts] = worker

    def fail_killers(self, stimulus_id: str) -> None:
        """Tasks that ended too many workers fail, instead of being placed once more."""
        killers, self._killers = self._killers, {}
        step = Consequences(self, stimulus_id)
        for ts, worker in killers.items():
            if self.tasks.get(ts.key) is ts:
                logger.error(
                    "Task %r has failed: %d workers died while they ran it.",
                    ts.key,
                    ts.suspicious,
                    extra={"action": "killed_workers"},
                )
                error = _killed_worker(ts.key, worker, self.allowed_failures)
                self.adoption.adopt_error(ts, {"exception": error, "erred_on": [worker]}, step)
        step.follow()
        step.send()

    def _latest_run(self, key: Key) -> int:
        return self.trials.get(key, (RUN_ID_SENTINEL, ""))[0]

    def _note_trial(self, ts: TaskState, run: int, where: str) -> None:
        key: Key = ts.key
        if key in self.tasks:
            self.transactions.note(self._trials.set(key, (run, where)))

    def _end_trials(self) -> None:
        for key in [key for key in self.trials if key not in self.tasks]:
            self.transactions.note(self._trials.delete(key))


def _run(ts: TaskState) -> int:
    return RUN_ID_SENTINEL if ts.run_id is None else ts.run_id


def _killed_worker(key: Key, address: str, allowed_failures: int) -> bytes:
    """The error of upstream's (scheduler.py:5643), which shows the address of the last worker."""
    last = WorkerState(
        address=address,
        status=Status.closed,
        pid=0,
        name=address,
        nthreads=0,
        memory_limit=0,
        local_directory="",
        nanny=None,
        server_id="",
    )
    error = KilledWorker(task=key, last_worker=last, allowed_failures=allowed_failures)
    return bytes(dumps(error))
