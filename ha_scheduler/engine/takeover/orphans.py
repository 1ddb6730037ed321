"""Orphans: results and runs of graphs that the leader does not know, or not yet.

Guarantee: an orphan is not computed again if its graph arrives within ``GRACE_SECONDS`` of the last
report, and is freed otherwise. Until then its worker is told nothing of it.

Order: a graph takes its orphans after its tasks are made and before their transitions; what workers
say of an orphan until then changes what the graph will take.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator

from distributed.scheduler import TaskState

from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.state import StreamScheduler
from ha_scheduler.engine.takeover.consequences import Consequences, free
from ha_scheduler.engine.takeover.reports import Claim, Held

logger = logging.getLogger(__name__)

GRACE_SECONDS = 30.0  # how long results of graphs that nobody knows wait for their client


class Orphans:
    def __init__(self, scheduler: StreamScheduler) -> None:
        self._scheduler = scheduler
        self._memory: dict[Key, dict[str, Held]] = {}
        self._running: dict[Key, Claim] = {}
        #: Not of a task that is about to be known again. It may be scattered data of which the
        #: leader is about to hear.
        self._data: dict[Key, set[str]] = {}
        self.expiry: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._memory) + len(self._running) + len(self._data)

    # What is one

    def hold(self, key: Key, worker: str, held: Held) -> None:
        """A worker holds the result of an unknown task."""
        self._memory.setdefault(key, {})[worker] = held

    def run(self, key: Key, claim: Claim) -> None:
        """A worker runs an unknown task."""
        self._running[key] = claim

    def hold_data(self, key: Key, worker: str) -> None:
        """A worker holds a key that may be scattered data."""
        self._data.setdefault(key, set()).add(worker)

    def owners(self) -> set[str]:
        return {address for _, address in self._places()}

    def _places(self) -> Iterator[tuple[Key, str]]:
        """Each key with each worker that has it."""
        for held in (self._memory, self._data):
            yield from ((key, address) for key, addresses in held.items() for address in addresses)
        yield from ((key, claim.worker) for key, claim in self._running.items())

    def holders(self, key: Key) -> list[str]:
        return list(self._memory.get(key, ()))

    def run_of(self, key: Key) -> int | None:
        """The oldest valid run of ``key``; None if no worker has it."""
        if key in self._memory:
            return min(held.run for held in self._memory[key].values())
        claim = self._running.get(key)
        if claim is None:
            return None
        return claim.run_id if claim.made is None else claim.made[2]

    # What workers say of them

    def finished(self, key: Key, worker: str, nbytes: int, typename: str) -> bool:
        """A worker finished an unknown task. Whether its result is kept."""
        claim = self._running.get(key)
        if claim is None or claim.worker != worker:
            return False
        del self._running[key]
        self.hold(key, worker, Held(nbytes, typename, claim.run_id))
        return True

    def stopped(self, key: Key, worker: str, stimulus_id: str) -> None:
        """A worker no longer runs ``key`` and has no result; it may free the error."""
        claim = self._running.get(key)
        if claim is not None and claim.worker == worker:
            del self._running[key]
            self._scheduler.send_all({}, {worker: [free(key, stimulus_id=stimulus_id)]})

    def copied(self, key: Key, worker: str) -> bool:
        """A worker has got a copy. Whether it is one of an orphan.

        A removed worker may have said so before; what it holds is lost.
        """
        if key in self._scheduler.tasks or worker not in self._scheduler.workers:
            return False
        held = Held(0, "", self.run_of(key) or 0)
        self._memory.setdefault(key, {}).setdefault(worker, held)
        return True

    # What becomes of them

    def take(self, tasks: Iterable[TaskState], claims: dict[Key, Claim]) -> list[TaskState]:
        """Give the tasks that a graph has just made the results and runs that workers have.

        Called before the graph's transitions. Returns the tasks in memory; adds runs to ``claims``.
        """
        if not self:
            return []
        adopted = []
        for ts in tasks:
            if ts.state != "released":
                continue
            self._free_data(ts.key)
            holders = self._memory.pop(ts.key, None)
            if holders:
                self._restore(ts, holders)
                adopted.append(ts)
            elif claim := self._running.pop(ts.key, None):
                claims[ts.key] = claim
        return adopted

    def _free_data(self, key: Key) -> None:
        """A task has this key, so what was kept is no scattered data."""
        message = free(key, stimulus_id=f"ha-former-{key}")
        holders = self._data.pop(key, ())
        self._scheduler.send_all({}, {address: [message] for address in holders})

    def _restore(self, ts: TaskState, holders: dict[str, Held]) -> None:
        scheduler = self._scheduler
        for address, held in holders.items():
            ts.set_nbytes(held.nbytes)
            scheduler.add_replica(ts, scheduler.workers[address])
            ts.type = held.typename
            ts.group.add_type(held.typename)
        ts.state = "memory"

    def scattered(self, key: Key) -> None:
        """``key`` is scattered data and no orphan."""
        self._memory.pop(key, None)
        self._data.pop(key, None)

    def forget_worker(self, address: str) -> None:
        for key in [k for k, claim in self._running.items() if claim.worker == address]:
            del self._running[key]
        for held in self._memory.values():
            held.pop(address, None)
        for addresses in self._data.values():
            addresses.discard(address)
        self._memory = {key: held for key, held in self._memory.items() if held}
        self._data = {key: addresses for key, addresses in self._data.items() if addresses}

    def expire_later(self) -> None:
        """Start the grace period anew."""
        if not self:
            return
        if self.expiry is not None:
            self.expiry.cancel()
        self.expiry = asyncio.get_running_loop().call_later(
            GRACE_SECONDS, self.expire, f"ha-orphans-{self._scheduler.term}"
        )

    def expire(self, stimulus_id: str) -> None:
        """Nobody resubmitted their graphs: free them."""
        step = Consequences(self._scheduler, stimulus_id)
        for key, address in self._places():
            step.free(address, key)
        if self:
            logger.info(
                "Freed %d keys of graphs that nobody resubmitted.",
                len(self),
                extra={"action": "orphans_freed"},
            )
        self._memory, self._running, self._data = {}, {}, {}
        step.send()
