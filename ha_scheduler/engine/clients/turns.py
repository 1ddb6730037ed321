"""Turns: a client's graphs do not keep another client's waiting (``fair-share``, off by default).

Guarantee: among tasks of one user priority, what a subject submits comes after what it submitted
before, and beside what others have waiting: who has ten tasks waits for about ten of somebody
else's, however many there are. Every later leader knows the turns, and goes on with them.

It is start-time fair queueing (Goyal, Vin, Cheng 1996) in upstream's priorities: a graph begins at
the virtual time, or where its subject's last one ends if that is later, and each of its tasks is
one further. The turn of a graph is among the leader's decisions in its record, so that a follower
gives the same priorities, whatever its own configuration says.

Upstream lets a client wait for all graphs that were submitted over ``fifo_timeout`` before. A
running task is never interrupted; user priorities come first, as ever.
"""

from __future__ import annotations

from typing import Any

import dask
from distributed.scheduler import TaskState

from ha_scheduler.engine.base import SchedulerBase

FAIR_SHARE = "ha-scheduler.scheduler.fair-share"
WAITING = frozenset({"waiting", "queued", "no-worker", "processing"})
NESTED = 0.01  # a task of a task goes before its maker's neighbours, as upstream's

#: Where a graph begins, and whether all its tasks have that turn (they are of a running task).
Turn = tuple[float, bool]


class Turns(SchedulerBase):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.turns_taken: dict[str, float] = {}  # by subject, or client: where its next one begins
        self._virtual_time: float | None = None  # None: this engine has led no graph

    def choose_turn(self, client: str, submitting_task: Any) -> Turn | None:
        """Of a graph that this leader is about to record; None unless turns are on."""
        if not dask.config.get(FAIR_SHARE, False):
            return None
        maker = self.tasks.get(submitting_task) if submitting_task else None
        if maker is not None and maker.priority:
            return maker.priority[1] - NESTED, True
        if self._virtual_time is None:
            self._virtual_time = self._earliest_waiting()
        return max(self._virtual_time, self.turns_taken.get(self._who(client), 0.0)), False

    def stimulus_task_finished(
        self, worker: Any, stimulus_id: Any, key: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As upstream's; time goes on by what is done."""
        if self._virtual_time is not None:
            ts = self.tasks.get(key)
            if ts is not None and ts.priority and ts.priority[1] > self._virtual_time:
                self._virtual_time = ts.priority[1]
        return super().stimulus_task_finished(worker, stimulus_id, key, *args, **kwargs)

    def take_turns(self, client: str, turn: Turn | None, new: list[TaskState]) -> None:
        """Upstream has given these tasks their priorities: change them by the graph's turn."""
        if turn is None:
            return
        begin, nested = turn
        end = begin
        for ts in new:
            if ts.priority:
                user, _, order = ts.priority
                ts.priority = (user, begin if nested else begin + order, order)
                end = max(end, begin + order + 1)
        if not nested:
            who = self._who(client)
            self.turns_taken[who] = max(end, self.turns_taken.get(who, 0.0))
            if len(self.turns_taken) > 2 * len(self.clients) + 64:
                self._forget_turns()

    def _forget_turns(self) -> None:
        """Of whoever has no client any more."""
        known = {self._who(client) for client in self.clients}
        self.turns_taken = {who: end for who, end in self.turns_taken.items() if who in known}

    def _who(self, client: str) -> str:
        return self.subject_of(client) or client

    def _earliest_waiting(self) -> float:
        waiting = (ts for ts in self.tasks.values() if ts.state in WAITING)
        turns = (ts.priority[1] for ts in waiting if ts.priority)
        return float(min(turns, default=max(self.turns_taken.values(), default=0.0)))
