"""Results whose last release has not committed yet.

Guarantee: a result is freed only when its release has committed, so that no later leader finds its
task wanted and the result gone, and computes it again. (An error is a record of its own. Only that
of a fire-and-forget task is kept like a result: its release and its failure are one step.)

Order: the release is recorded; then the keeper, a pseudo-client, wants the key until the commit. It
gives way at once to a graph that mentions the key, a desire, a cancellation and the loss of a
worker: these see the key released, as followers do.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable
from time import time
from typing import Any

import distributed.scheduler as upstream
from distributed.scheduler import ClientState, Recs

from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.recorder import OnCommit
from ha_scheduler.engine.stream.state import StreamScheduler

KEEPER = "ha-until-committed"
FIRE_AND_FORGET = "fire-and-forget"  # upstream's pseudo-client (scheduler.py:1739)


class PendingReleases:
    def __init__(self, scheduler: StreamScheduler) -> None:
        self._scheduler = scheduler
        self._keeper = ClientState(KEEPER)  # not one of the scheduler's: nobody can ask it
        self._numbers = itertools.count()
        self._kept: dict[Key, int] = {}  # by which call of ``keep``

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, keys: Iterable[Key], cs: ClientState) -> OnCommit | None:
        """Keep the results that ``cs`` is the last to want. Call it when the release is recorded,
        and the returned function when that has committed.
        """
        if self._scheduler.recorder is None:
            return None
        outcomes = ("memory", "erred") if cs.client_key == FIRE_AND_FORGET else ("memory",)
        number = next(self._numbers)
        kept = []
        for key in keys:
            ts = self._scheduler.tasks.get(key)
            if ts is not None and ts.state in outcomes and ts.who_wants == {cs}:
                ts.who_wants.add(self._keeper)
                self._keeper.wants_what.add(ts)
                self._kept[key] = number
                kept.append(key)
        return functools.partial(self._committed, number, kept) if kept else None

    def give_way(self, keys: Iterable[Key]) -> None:
        """Something else is about to happen to these keys."""
        if self._kept:
            self._release(self._because_of(keys))

    def give_way_to_graph(self, dsk: dict[Key, Any], keys: set[Key]) -> None:
        """A graph is about to be made that may mention kept keys."""
        if self._kept:
            inputs = (key for spec in dsk.values() for key in spec.dependencies)
            self._release(self._because_of(itertools.chain(dsk, keys, inputs)))

    def _because_of(self, keys: Iterable[Key]) -> list[Key]:
        """The kept keys by which any of ``keys`` is still known here, and is not on followers.

        Walks up through unwanted dependents, never down: below a kept key may be a graph of any
        size.
        """
        tasks = self._scheduler.tasks
        seen = set()
        stack = [tasks[key] for key in keys if key in tasks]
        while stack:
            ts = stack.pop()
            if ts not in seen and (not ts.who_wants or ts.key in self._kept):
                seen.add(ts)
                stack.extend(ts.dependents)
        return [ts.key for ts in seen if ts.key in self._kept]

    def give_way_to_all(self) -> None:
        """Something is about to happen after which no unwanted task may be computed again."""
        self._release(list(self._kept))

    def forget(self) -> None:
        self._kept.clear()
        self._keeper.wants_what.clear()

    def _committed(self, number: int, keys: list[Key]) -> None:
        self._release([key for key in keys if self._kept.get(key) == number])

    def _release(self, keys: Collection[Key]) -> None:
        if not keys:
            return
        for key in keys:
            del self._kept[key]
        recommendations: Recs = {}
        upstream.Scheduler._client_releases_keys(
            self._scheduler, keys=keys, cs=self._keeper, recommendations=recommendations
        )
        self._scheduler.transitions(recommendations, f"ha-released-{time()}")
