"""Run ids of a worker's tasks, and the highest id that a leader has named.

Guarantee: the run id of a finished task is that under which its execution began, as the worker
reports it. Upstream keeps the latest that it was told (2827 of worker_state_machine.py): a task
that was cancelled and submitted again while it executed, perhaps as another function, would return
as the later run.

``heard`` follows the leader's stream in order: everything that the leader freed before an id is
freed here when ``heard`` reaches it. A release, though, frees only when it has committed, and run
ids are named meanwhile. So a fetched result is dated by ``heard`` at the time of its arrival.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from distributed.worker_state_machine import (
    RUN_ID_SENTINEL,
    ComputeTaskEvent,
    ExecuteFailureEvent,
    ExecuteSuccessEvent,
    GatherDepSuccessEvent,
    UpdateDataEvent,
)


class RunTracker:
    def __init__(self) -> None:
        self.heard = RUN_ID_SENTINEL  # the highest id that a leader has named
        self._fetched: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # by task: heard by then

    def hear(self, run: int) -> None:
        self.heard = max(self.heard, run)

    def watch(self, state: Any, stimulus: Any) -> None:
        """Call it before the ``WorkerState`` handles the stimulus."""
        if isinstance(stimulus, ComputeTaskEvent):
            self.hear(stimulus.run_id)
        elif isinstance(stimulus, ExecuteSuccessEvent | ExecuteFailureEvent):
            state.tasks[stimulus.key].run_id = stimulus.run_id
        elif isinstance(stimulus, GatherDepSuccessEvent):
            came = [state.tasks[key] for key in stimulus.data if key in state.tasks]
            self._fetched.update(dict.fromkeys(came, self.heard))
        elif isinstance(stimulus, UpdateDataEvent):
            for ts in [state.tasks[key] for key in stimulus.data if key in state.tasks]:
                self._fetched.pop(ts, None)

    def fetched(self) -> dict[Any, int]:
        """By fetched key, ``heard`` when it arrived."""
        return {ts.key: run for ts, run in self._fetched.items() if ts.state == "memory"}
