"""Orphans: what workers hold or run of graphs that the leader does not know, or not yet.

Guarantee: what is an orphan is not computed again if its graph arrives in time, and is freed if
nobody resubmits that. Until then its worker is told nothing of it.

Order: a graph takes its orphans when its tasks have been made and before their transitions; what
workers say of an orphan meanwhile changes what the graph will take.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.takeover.reports import Claim, Held, Orphans

logger = logging.getLogger(__name__)


class OrphansOfGraphs:
    """The part of ``Adoption`` that keeps orphans."""

    _scheduler: Any
    claims: dict[Key, Claim]
    orphans: Orphans

    def claim_orphans(self, tasks: Iterable[Any]) -> list[Any]:
        """A graph has just made these tasks: give them the results and runs that workers hold.

        Called before the graph's transitions. Returns the tasks that are now in memory.
        """
        if not self.orphans:
            return []
        adopted = []
        for ts in tasks:
            if ts.state != "released":
                continue
            self._free_data(ts.key)
            holders = self.orphans.memory.pop(ts.key, None)
            if holders:
                self._restore_orphan(ts, holders)
                adopted.append(ts)
            elif claim := self.orphans.running.pop(ts.key, None):
                self.claims[ts.key] = claim
        return adopted

    def _free_data(self, key: Key) -> None:
        """A task has the name of what was kept in case that it was scattered data."""
        message = free(key, stimulus_id=f"ha-former-{key}")
        holders = self.orphans.data.pop(key, ())
        self._scheduler.send_all({}, {address: [message] for address in holders})

    def _restore_orphan(self, ts: Any, holders: dict[str, Held]) -> None:
        scheduler = self._scheduler
        for address, held in holders.items():
            ts.set_nbytes(held.nbytes)
            scheduler.add_replica(ts, scheduler.workers[address])
            ts.type = held.typename
        ts.state = "memory"
        ts.group.add_type(ts.type)

    def finished_early(self, key: Key, worker: str, nbytes: int, typename: str) -> bool:
        """A worker finished a task that no known graph has; keep the result. True if kept."""
        claim = self.orphans.running.get(key)
        if claim is None or claim.worker != worker:
            return False
        del self.orphans.running[key]
        held = Held(nbytes, typename, claim.run_id)
        self.orphans.memory.setdefault(key, {})[worker] = held
        return True

    def stopped_early(self, key: Key, worker: str, stimulus_id: str) -> None:
        """A worker runs ``key`` no longer, and has no result of it; an error it need not keep."""
        claim = self.orphans.running.get(key)
        if claim is not None and claim.worker == worker:
            del self.orphans.running[key]
            self._scheduler.send_all({}, {worker: [free(key, stimulus_id=stimulus_id)]})

    def keep_copy(self, key: Key, worker: str) -> bool:
        """A worker has got a copy of what may be an orphan. Whether it is one.

        One that was removed may have said so before: what it holds is of no use any more.
        """
        if key in self._scheduler.tasks or worker not in self._scheduler.workers:
            return False
        held = Held(0, "", self.orphans.run_of(key) or 0)
        self.orphans.memory.setdefault(key, {}).setdefault(worker, held)
        return True

    def expire(self, stimulus_id: str) -> None:
        """Nobody resubmitted what the orphans belong to: free them."""
        worker_msgs: dict[str, list[Any]] = {}
        for key, address in self.orphans.holders():
            worker_msgs.setdefault(address, []).append(free(key, stimulus_id=stimulus_id))
        if self.orphans:
            logger.info(
                "Freed %d keys of graphs that nobody resubmitted.",
                len(self.orphans),
                extra={"action": "orphans-freed"},
            )
        self.orphans = Orphans()
        self._scheduler.send_all({}, worker_msgs)


def free(*keys: Key, stimulus_id: str) -> dict[str, Any]:
    """What tells a worker to drop these keys."""
    return {"op": "free-keys", "keys": list(keys), "stimulus_id": stimulus_id}
