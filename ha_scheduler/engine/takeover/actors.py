"""Actors, whose state is where they run and nowhere else.

Guarantee: an actor that anybody was told of is never silently created anew. The record of its
creation commits before clients and dependent tasks hear of it. A new leader finds the actor in its
worker's report; if that worker is gone, it fails as upstream has it then ("Worker holding Actor was
lost"). If the leader died during the creation, nobody was told: it is created once if its worker
lives.

Order: the worker's word that the actor is there; the record; its commit; the transition to memory,
by which everybody hears. The record goes when the actor is forgotten or its error is withdrawn.

Method calls go from caller to worker directly; those by way of the leader (``Scheduler.proxy``) are
``client_replay/calls/rpc.py``'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from time import time
from typing import Any

from distributed.protocol.pickle import dumps

from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.tables import Table
from ha_scheduler.engine.takeover.consequences import Consequences
from ha_scheduler.engine.takeover.withheld import WithheldTasks

ACTORS = "actor"  # key → the address of the worker

LOST = "Worker holding Actor was lost"  # upstream's words (scheduler.py:2560)

logger = logging.getLogger(__name__)


class Actors(WithheldTasks):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.actors_created: dict[Key, str] = {}
        # ``Scheduler._settle`` settles them: after errors, before scattered data.
        self._actors = self.tables.add(Table(ACTORS, self.actors_created, of_tasks=True))
        self._creating: set[asyncio.Task[None]] = set()

    def handle_task_finished(self, key: Key, worker: str, stimulus_id: str, **message: Any) -> None:
        """As upstream's, after an actor's creation is recorded."""
        ts = self.tasks.get(key)
        if ts is None or not ts.actor or self.actors_created.get(key) == worker:
            super().handle_task_finished(key, worker, stimulus_id, **message)
            return
        recording = asyncio.create_task(
            self._record_and_finish(key, worker, {"stimulus_id": stimulus_id, **message})
        )
        self._creating.add(recording)
        recording.add_done_callback(self._creating.discard)

    async def _record_and_finish(self, key: Key, worker: str, message: dict[str, Any]) -> None:
        self.transactions.note(self._actors.set(key, worker))
        await self.transactions.settled()
        super().handle_task_finished(key=key, worker=worker, **message)
        ts = self.tasks.get(key)
        is_there = ts is not None and ts.who_has
        # It may have been lost, or left, before anybody was told, and made elsewhere meanwhile.
        if not is_there and self.actors_created.get(key) == worker:
            self._forget_actors([key])

    def settle_actors(self, stimulus_id: str) -> None:
        """Reports are adopted: a recorded actor that is in none, and in none to come, is lost."""
        step = Consequences(self, stimulus_id)
        for key, worker in list(self.actors_created.items()):
            ts = self.tasks.get(key)
            if ts is None or ts.state == "released":  # nobody needs it: all that did has failed
                self._forget_actors([key])
            elif not ts.who_has and ts.state != "erred" and worker not in self.silent:
                logger.error(
                    "Actor %r was lost with its worker %s.",
                    key,
                    worker,
                    extra={"action": "actor_lost"},
                )
                self.adoption.adopt_error(ts, _lost(), step)
        step.follow()
        step.send()

    def spoke(self, workers: Iterable[str]) -> bool:
        """As that of ``WithheldTasks``; actors of workers that were silent are there or lost."""
        waited = super().spoke(workers)
        if self.recovery.is_open and self.actors_created:
            self.settle_actors(f"ha-actors-{time()}")
        return waited

    def stimulus_retry(self, keys: Collection[Key], client: str | None = None) -> Any:
        """As upstream's; a retry creates a lost actor anew."""
        retried = super().stimulus_retry(keys=keys, client=client)
        self._forget_actors(retried)
        return retried

    def _forget_actors(self, keys: Iterable[Key]) -> None:
        if self.actors_created:
            for key in keys:
                if key in self.actors_created:
                    self.transactions.note(self._actors.delete(key))


def _lost() -> dict[str, Any]:
    error = RuntimeError(LOST)
    return {
        "exception": dumps(error),
        "traceback": None,
        "exception_text": repr(error),
        "traceback_text": "",
        "erred_on": [],
    }
