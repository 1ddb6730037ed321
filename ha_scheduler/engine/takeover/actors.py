"""Actors, whose state is where they run and nowhere else.

Guarantee: an actor of which anybody was told is never silently made anew. Its creation is recorded,
and has committed before clients and dependent tasks hear of it. A new leader finds the actor in the
report of its worker; if that worker did not come back in time, the actor has failed as it does
upstream when its worker is lost ("Worker holding Actor was lost"). One of which nobody was told,
because its leader died while it was being created, is created once if its worker lives.

Order: the worker's word that the actor is there; the record; its commit; the transition to memory,
from which everybody hears. The record goes when the actor is forgotten or its error is withdrawn.

Calls of methods go from the caller to the worker, and are no matter of ours; those that the leader
passes on (``Scheduler.proxy``) are ``client_replay/rpc.py``'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distributed.protocol.pickle import dumps
from distributed.scheduler import TaskState

from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.tables import ACTORS, Values

if TYPE_CHECKING:
    from ha_scheduler.engine.takeover.adoption import Adoption
    from ha_scheduler.engine.takeover.reports import Report

LOST = "Worker holding Actor was lost"  # upstream's words (scheduler.py:2560)

logger = logging.getLogger(__name__)


class Actors:
    """The part of our Scheduler that keeps account of actors; a mixin before upstream's class."""

    adoption: Adoption
    values: Values
    tasks: dict[Key, Any]
    actors_created: dict[Key, str]  # by key: the address of the worker
    _creating: set[asyncio.Task[None]]

    def handle_task_finished(self, key: Key, worker: str, **message: Any) -> None:
        """As upstream's; that an actor is there is recorded first."""
        ts = self.tasks.get(key)
        if ts is None or not ts.actor or self.actors_created.get(key) == worker:
            super().handle_task_finished(key=key, worker=worker, **message)  # type: ignore[misc]
            return
        recording = asyncio.create_task(self._record_and_finish(key, worker, message))
        self._creating.add(recording)
        recording.add_done_callback(self._creating.discard)

    async def _record_and_finish(self, key: Key, worker: str, message: dict[str, Any]) -> None:
        self.actors_created[key] = worker
        await self.values.write(ACTORS, key)
        super().handle_task_finished(key=key, worker=worker, **message)  # type: ignore[misc]
        ts = self.tasks.get(key)
        is_there = ts is not None and ts.who_has
        # It may have been lost, or left, before anybody was told, and made elsewhere meanwhile.
        if not is_there and self.actors_created.get(key) == worker:
            self._forget_actors([key])

    def settle_actors(self, stimulus_id: str) -> None:
        """Reports are adopted: an actor that was there, and is not, is lost."""
        client_msgs: dict[str, list[Any]] = {}
        recommendations: dict[Key, str] = {}
        for key, worker in list(self.actors_created.items()):
            ts = self.tasks.get(key)
            if ts is None or ts.state == "released":  # nobody needs it: all that did has failed
                self._forget_actors([key])
            elif not ts.who_has and ts.state != "erred":
                logger.error(
                    "Actor %r was lost with its worker %s.",
                    key,
                    worker,
                    extra={"action": "actor-lost"},
                )
                self.adoption.adopt_error(ts, _lost(), recommendations, client_msgs)
        worker_msgs: dict[str, list[Any]] = {}
        self._transitions(recommendations, client_msgs, worker_msgs, stimulus_id)  # type: ignore[attr-defined]
        self.send_all(client_msgs, worker_msgs)  # type: ignore[attr-defined]

    def stimulus_retry(self, keys: Collection[Key], client: str | None = None) -> Any:
        """As upstream's: a client that asks for it gets a lost actor anew."""
        retried = super().stimulus_retry(keys=keys, client=client)  # type: ignore[misc]
        self._forget_actors(retried)
        return retried

    def _remove_key(self, key: Key) -> None:
        super()._remove_key(key)  # type: ignore[misc]
        self._forget_actors([key])

    def _forget_actors(self, keys: Iterable[Key]) -> None:
        if self.actors_created:
            for key in keys:
                if self.actors_created.pop(key, None) is not None:
                    self.values.write_soon(ACTORS, key)


def _lost() -> dict[str, Any]:
    error = RuntimeError(LOST)
    return {
        "exception": dumps(error),
        "traceback": None,
        "exception_text": repr(error),
        "traceback_text": "",
        "erred_on": [],
    }


class ReportedActors:
    """What the reports of workers mean for actors; ``Adoption`` asks."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._handles: list[tuple[Key, str]] = []  # key, and the worker that has one

    def not_told_of(self, report: Report) -> Report:
        """The report, with actors as running of whose creation nobody can have been told.

        Its end is yet to come then, under a run id of ours.
        """
        created = self._scheduler.actors_created
        new = {key for key in report.actors if key not in created}
        made = [entry for entry in report.memory if entry[0] in new]
        if not made:
            return report
        run_ids = TaskState._run_id_iterator
        running = [(k, next(run_ids), "executing", (n, kind, run)) for k, n, kind, run in made]
        memory = tuple(entry for entry in report.memory if entry[0] not in new)
        return replace(report, memory=memory, running=(*report.running, *running))

    def finish_soon(self, key: Key, worker: str, run_id: int, nbytes: int, typename: str) -> None:
        """The creation of an actor has ended: as if its worker said so after its report."""

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
        """The results of a report. Handles of actors are like them, and are put aside."""
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
        """A handle is worth what its actor is. Returns those without one, to be freed."""
        handles, self._handles = self._handles, []
        worthless = []
        for key, address in handles:
            ts, ws = self._scheduler.tasks[key], self._scheduler.workers[address]
            if not ts.who_has:
                worthless.append((key, address))
            elif ws not in ts.who_has:
                self._scheduler.add_replica(ts, ws)
        return worthless
