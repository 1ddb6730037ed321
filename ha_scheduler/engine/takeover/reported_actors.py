"""Actors in the reports of workers: unannounced ones, and handles.

Guarantee: a reported actor whose creation nobody was told of counts as being created, so that the
creation is recorded before anybody hears of it (``actors.py``). A handle is worth what its actor
is.

Order: handles are put aside while results are adopted, and placed when all actors are.
"""

from __future__ import annotations

import asyncio
from typing import Any

from distributed.scheduler import TaskState
from msgspec.structs import replace

from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.state import StreamScheduler
from ha_scheduler.protocol.worker import Report


class ReportedActors:
    def __init__(self, scheduler: StreamScheduler) -> None:
        self._scheduler = scheduler
        self._handles: list[tuple[Key, str]] = []  # key, and the worker that has one

    def not_told_of(self, report: Report) -> Report:
        """The report, with unannounced actors as running under a run id of ours."""
        created = self._scheduler.actors_created
        new = {key for key in report.actors if key not in created}
        made = [entry for entry in report.memory if entry[0] in new]
        if not made:
            return report
        run_ids = TaskState._run_id_iterator
        running: list[Any] = [
            (key, next(run_ids), "executing", (size, kind, run)) for key, size, kind, run in made
        ]
        memory = tuple(entry for entry in report.memory if entry[0] not in new)
        return replace(report, memory=memory, running=(*report.running, *running))

    def finish_soon(self, key: Key, worker: str, run_id: int, nbytes: int, typename: str) -> None:
        """An actor has been created: as if its worker said so after its report."""

        def finish() -> None:
            ts = self._scheduler.tasks.get(key)
            if ts is not None and ts.state == "processing" and ts.run_id == run_id:
                self._scheduler.handle_task_finished(
                    key=key, worker=worker, run_id=run_id, nbytes=nbytes, type=b"",
                    typename=typename, metadata={}, thread=0, startstops=(),
                    stimulus_id=f"ha-actor-{run_id}",
                )  # fmt: skip

        asyncio.get_running_loop().call_soon(finish)

    def without_handles(self, address: str, report: Report) -> list[tuple[Key, int, str, int]]:
        """The results of a report; handles of actors, which look alike, are put aside."""
        tasks = self._scheduler.tasks
        results = []
        for entry in report.memory:
            ts = tasks.get(entry[0])
            if ts is not None and ts.actor and entry[0] not in report.actors:
                self._handles.append((entry[0], address))
            else:
                results.append(entry)
        return results

    def adopt_handles(self) -> list[tuple[Key, str]]:
        """Place the handles; returns those without an actor, to be freed."""
        handles, self._handles = self._handles, []
        worthless = []
        for key, address in handles:
            ts, ws = self._scheduler.tasks[key], self._scheduler.workers[address]
            if not ts.who_has:
                worthless.append((key, address))
            elif ws not in ts.who_has:
                self._scheduler.add_replica(ts, ws)
        return worthless
