"""What workers say of tasks that an earlier leader gave them.

Guarantee: a task that a worker has from an earlier leader is not sent to a second one; what workers
say of an orphan changes what its graph will take (``orphans.py``). A failure due to the loss of the
leader is no failure of the task.

Order: what is no outcome is put aside before ``Attempts`` counts it.
"""

from __future__ import annotations

from typing import Any

from distributed.scheduler import RecsMsgs, TaskState, WorkerState

from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.takeover.attempts import Attempts


class InheritedTasks(Attempts):
    def stimulus_task_finished(
        self, worker: str, stimulus_id: str, key: Key, *args: Any, **kwargs: Any
    ) -> RecsMsgs:
        """As upstream's; an orphan's result is kept for its graph."""
        adoption = self.adoption
        if adoption.orphans or adoption.claims:
            ts = self.tasks.get(key)
            if ts is None:
                nbytes, typename = kwargs.get("nbytes", 0), kwargs.get("typename", "")
                if adoption.orphans.finished(key, worker, nbytes, typename):
                    return {}, {}, {}
            elif key in adoption.claims:
                adoption.finish_claims([ts], stimulus_id)
                adoption.claims.pop(key, None)  # one that cannot be placed is over now
        return super().stimulus_task_finished(worker, stimulus_id, key, *args, **kwargs)

    def stimulus_task_erred(
        self, worker: str, stimulus_id: str, key: Key, run_id: int, **kwargs: Any
    ) -> RecsMsgs:
        """As upstream's; an orphan that failed no longer runs, and will be computed again."""
        self.adoption.orphans.stopped(key, worker, stimulus_id)
        ts = self.tasks.get(key)
        if ts is not None and ts.state == "processing" and ts.run_id == run_id:
            text = str(kwargs.get("exception_text", ""))
            if self.extensions["shuffle"].overtaken(ts, text, stimulus_id):
                return {}, {}, {}
        result: RecsMsgs = super().stimulus_task_erred(worker, stimulus_id, key, run_id, **kwargs)
        return result

    def _reschedule(self, key: Key, worker: str | None = None, *, stimulus_id: str) -> Any:
        """As upstream's; an orphan that was given back no longer runs."""
        self.adoption.orphans.stopped(key, worker or "", stimulus_id)
        return super()._reschedule(key, worker, stimulus_id=stimulus_id)

    def add_keys(self, worker: str, keys: Any = (), stimulus_id: str | None = None) -> Any:
        """As upstream's; a copy of an orphan is kept, since a running orphan may use it.

        So is what the worker computes for us and takes for a copy: it answers our request to
        compute it with the result.
        """
        keys = [key for key in keys if not self._computes(worker, key)]
        if orphans := self.adoption.orphans:
            keys = [key for key in keys if not orphans.copied(key, worker)]
        return super().add_keys(worker=worker, keys=keys, stimulus_id=stimulus_id)

    def _computes(self, worker: str, key: Key) -> bool:
        ts = self.tasks.get(key)
        return ts is not None and ts.processing_on is self.workers.get(worker, ts)

    def handle_request_refresh_who_has(self, keys: Any, worker: str, stimulus_id: str) -> None:
        """As upstream's; the holders of an orphan are named, where upstream has it freed."""
        orphans = {key: held for key in keys if (held := self.adoption.orphans.holders(key))}
        if orphans:
            self.stream_comms[worker].send(
                {"op": "refresh-who-has", "who_has": orphans, "stimulus_id": stimulus_id}
            )
        rest = [key for key in keys if key not in orphans]
        super().handle_request_refresh_who_has(keys=rest, worker=worker, stimulus_id=stimulus_id)

    def _add_to_processing(self, ts: TaskState, ws: WorkerState, stimulus_id: str) -> Any:
        """Send a task to a worker, unless one has it from an earlier leader."""
        if self.adoption.claims:
            claim = self.adoption.take_claim(ts)
            if claim is not None:
                return {}, {}, self.adoption.make_processing(ts, claim, stimulus_id)
        if ts.run_id is not None or ts.nbytes >= 0:  # the latter of an adopted result
            self.counts.reruns += 1
        return super()._add_to_processing(ts, ws, stimulus_id=stimulus_id)
