"""P2P shuffles that go on under a new leader.

Guarantee: a shuffle run is in the event stream before any worker learns of it, so that a new leader
can answer the workers that take part in it; run ids of a later term are higher than any earlier
one's, as workers require (hazards 7 and 8). If a worker that takes part did not come back, the
shuffle starts anew, as upstream does when one leaves.

Where output tasks may run is not recorded: a task on the wrong worker finds out by itself, asks to
be restricted, and is scheduled again (shuffle/_core.py, ``_ensure_output_worker``).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Coroutine
from typing import Any

from distributed.protocol.pickle import dumps, loads
from distributed.shuffle._core import SchedulerShuffleState, barrier_key
from distributed.shuffle._scheduler_plugin import ShuffleSchedulerPlugin

logger = logging.getLogger(__name__)

SHUFFLES = "shuffle"  # the space of their values in the ledger

_GOING_ON = frozenset({"waiting", "queued", "no-worker", "processing", "memory"})


class Shuffles(ShuffleSchedulerPlugin):
    """The scheduler's shuffle extension."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        #: Pickled run specs by shuffle id: what the ledger holds.
        self.recorded: dict[str, bytes] = {}
        self._runs = itertools.count(1)

    async def get_or_create(self, shuffle_id: Any, key: Any, worker: str) -> Any:
        """As upstream's; a new run is committed before the worker learns of it."""
        answer = super().get_or_create(shuffle_id, key, worker)
        if shuffle_id in self.active_shuffles:
            await self._commit(shuffle_id)
        return answer

    def _create(self, shuffle_id: Any, key: Any, worker: str) -> Any:
        run_spec = super()._create(shuffle_id, key, worker)
        state = self.active_shuffles[shuffle_id]
        self._shuffles[shuffle_id].discard(state)  # its hash is its run id
        object.__setattr__(run_spec, "run_id", self.scheduler.term << 32 | next(self._runs))
        self._shuffles[shuffle_id].add(state)
        self.recorded[shuffle_id] = bytes(dumps(run_spec))
        return run_spec

    def _clean_on_scheduler(self, id: Any, stimulus_id: str) -> None:
        super()._clean_on_scheduler(id, stimulus_id)
        if self.recorded.pop(id, None) is not None:
            self.scheduler.values.write_soon(SHUFFLES, id)

    def _commit(self, shuffle_id: Any) -> Coroutine[Any, Any, None]:
        return self.scheduler.values.write(SHUFFLES, shuffle_id)  # type: ignore[no-any-return]

    def restore(self, stimulus_id: str) -> None:
        """After a takeover, when the workers' reports have been adopted: go on with each run."""
        for shuffle_id, data in list(self.recorded.items()):
            barrier = self.scheduler.tasks.get(barrier_key(shuffle_id))
            if barrier is None or barrier.state not in _GOING_ON:
                del self.recorded[shuffle_id]
                self.scheduler.values.write_soon(SHUFFLES, shuffle_id)
            else:
                self._restore_run(shuffle_id, loads(data), stimulus_id)

    def _restore_run(self, shuffle_id: Any, run_spec: Any, stimulus_id: str) -> None:
        workers = set(self.scheduler.workers)
        missing = set(run_spec.worker_for.values()) - workers
        state = SchedulerShuffleState(run_spec=run_spec, participating_workers=workers)
        self.active_shuffles[shuffle_id] = state
        self._shuffles[shuffle_id].add(state)
        for task in self.scheduler.tasks[barrier_key(shuffle_id)].dependents:
            task._queueable = False
        if missing:
            logger.warning(
                "Shuffle %s starts anew: %d of its workers did not come back.",
                shuffle_id,
                len(missing),
                extra={"action": "shuffle-restarted"},
            )
            self._fail_on_workers(state, f"workers of {state} are gone")
            self._clean_on_scheduler(shuffle_id, stimulus_id)
            self._restart_shuffle(shuffle_id, self.scheduler, stimulus_id=stimulus_id)
