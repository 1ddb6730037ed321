"""Scattered data, which nobody can compute again: only its holders can bring it back.

Guarantee: needed scattered data is given up only when every worker that may hold it has reported or
is known to be gone. Until then its dependents and clients wait; a worker that returns late brings
it. When it is given up, each client is told which data was lost with which workers, and so of all
that needed it.

Order: results are adopted before data is given up, so a finished result outlives its inputs.

Upstream has no state for data that is elsewhere for now. Ours is ``no-worker``, by a restriction
that no worker meets.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from time import monotonic
from typing import Any

from distributed.scheduler import Recs, TaskState

from ha_scheduler.engine.clients.registration import Clients
from ha_scheduler.engine.stream.keys import Key

LOST_KEYS_MAX = 10_000  # of which is remembered why they were lost, for clients that come later
NAMES_MAX = 5  # workers that a sentence names

_NOWHERE = frozenset({""})  # no worker has this address

logger = logging.getLogger(__name__)


class ScatteredData(Clients):
    """Before ``Intents``: data that is refused is not recorded."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.held: set[Key] = set()  # data that a worker may bring back that has not reported yet
        self.departed: list[str] = []  # workers of an earlier leader that will not come back
        self.lost: dict[Key, str] = {}  # keys that were given up, and why

    def settle_scattered(self, stimulus_id: str) -> None:
        """The barrier opens: wait for needed data that nobody has."""
        unneeded: Recs = {}
        for key in self.scattered:
            ts = self.tasks.get(key)
            if ts is None or ts.who_has:
                continue
            if ts.who_wants or ts.waiters:
                ts.state = "no-worker"
                ts.worker_restrictions = set(_NOWHERE)
                self.unrunnable[ts] = monotonic()
                self.held.add(key)
            else:
                unneeded[key] = "forgotten"
        self.transitions(unneeded, stimulus_id)
        self.look_after_held(stimulus_id)

    def look_after_held(self, stimulus_id: str) -> None:
        """Release what has come back, and give up what nobody can bring any more."""
        for key in list(self.held):
            ts = self.tasks.get(key)
            if ts is None or ts.state != "no-worker":
                self.held.discard(key)
                if ts is not None:
                    ts.worker_restrictions = None
        if self.held and not self.recovery.awaited:
            lost, self.held = self.held, set()
            self._give_up_data(lost, stimulus_id)

    def _give_up_data(self, lost: set[Key], stimulus_id: str) -> None:
        told: defaultdict[tuple[str, str], list[Key]] = defaultdict(list)
        for key in lost:
            why = self._why(key)
            for ts in self._what_needs(key):
                if len(self.lost) < LOST_KEYS_MAX:
                    self.lost[ts.key] = why
                for cs in ts.who_wants or ():
                    told[cs.client_key, why].append(ts.key)
        logger.error(
            "%d pieces of scattered data are lost: %s.",
            len(lost),
            self._who_departed(),
            extra={"action": "scattered_lost"},
        )
        # Before upstream's own word, which says no reason: a client goes by the first.
        for (client, why), keys in told.items():
            self._tell_why(client, keys, why)
        self.transitions(dict.fromkeys(lost, "forgotten"), stimulus_id)

    def _what_needs(self, key: Key) -> list[TaskState]:
        """The data and all that cannot be computed without it."""
        found = {key: self.tasks[key]}
        ahead = [self.tasks[key]]
        while ahead:
            for ts in ahead.pop().dependents:
                if ts.key not in found and ts.state not in ("memory", "erred"):
                    found[ts.key] = ts
                    ahead.append(ts)
        return list(found.values())

    def _why(self, key: Key) -> str:
        return (
            f"{key!r} was scattered, and no worker has it any more: {self._who_departed()}. "
            "Scatter it again."
        )

    def _who_departed(self) -> str:
        names = sorted(self.departed)
        if not names:
            return "no worker that came back holds it"
        listed = ", ".join(names[:NAMES_MAX]) + (", …" if len(names) > NAMES_MAX else "")
        return f"{len(names)} workers did not outlive a change of leaders ({listed})"

    def _tell_why(self, client: str, keys: list[Key], why: str) -> None:
        message = {"op": "cancelled-keys", "keys": keys, "reason": "unknown-after-failover"}
        self.client_send(client, {**message, "msg": why})

    def _tell_unknown(self, client: str, keys: list[Key], given_up: bool) -> None:
        """As for any returning client, with the reason if the data was given up."""
        told: defaultdict[str, list[Key]] = defaultdict(list)
        for key in keys:
            if key in self.lost:
                told[self.lost[key]].append(key)
        for why, lost in told.items():
            self._tell_why(client, lost, why)
        rest = [key for key in keys if key not in self.lost]
        super()._tell_unknown(client, rest, given_up)

    def _propagate_released(self, ts: TaskState, recommendations: Recs) -> None:
        """As upstream's; released data cannot be computed, only forgotten."""
        super()._propagate_released(ts, recommendations)
        if ts.run_spec is None:
            recommendations[ts.key] = "forgotten"

    def update_data(
        self, *, who_has: dict[Key, list[str]], client: str | None = None, **kwargs: Any
    ) -> None:
        """As upstream's; orphans under these keys were scattered.

        Raises ``RuntimeError`` if all workers that took the data are gone.
        """
        for key, holders in who_has.items():
            gone = [address for address in holders if address not in self.workers]
            if len(gone) == len(holders):
                raise RuntimeError(
                    f"{key!r} was scattered to {', '.join(gone)}, and is lost: the worker went "
                    "before the scheduler was told of the data. Scatter it again."
                )
        here = {k: [a for a in v if a in self.workers] for k, v in who_has.items()}
        for key in here:
            self.adoption.orphans.scattered(key)
            self.lost.pop(key, None)
        if client and client not in self.client_comms and client not in self._leaving:
            # What it says of its desires when it comes, it may have said without this.
            self.await_client(client)
        super().update_data(who_has=here, client=client, **kwargs)
