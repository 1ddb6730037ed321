"""Of which run what a worker has stems, and how far the worker has heard its leader.

Guarantee: the run id of a task that is over is that under which its execution began, which is what
the worker tells a leader as well. Upstream keeps the latest that it was told (2827 of
worker_state_machine.py): a task that was cancelled and asked for again while it executed, perhaps
with another function, would come as the result of the later run.

``heard`` rises with what comes on the leader's stream, in its order. So all that the leader had
freed before has been freed when it rises: what the worker still has, it has by a later word. But
what a leader lets go it frees when that has committed, and it names runs meanwhile. So what was
fetched is only as new as what was heard when it came.
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
    """Watches the stimuli of a worker."""

    def __init__(self) -> None:
        self.heard = RUN_ID_SENTINEL  # the highest id that a leader has named
        self._fetched: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # by task: heard by then

    def hear(self, run: int) -> None:
        """A leader has named an id."""
        self.heard = max(self.heard, run)

    def watch(self, state: Any, stimulus: Any) -> None:
        """To be called before the ``WorkerState`` handles the stimulus."""
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
        """What the worker has from other workers, and what it had heard when that came."""
        return {ts.key: run for ts, run in self._fetched.items() if ts.state == "memory"}
