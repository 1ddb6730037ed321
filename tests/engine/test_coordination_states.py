"""Whatever was done to coordination objects, a new leader has them as the old one did.

Method: random calls, some of which wait, on a leading scheduler; then its objects are compared with
those of an engine that followed the log, and of one that was started on the ledger. Both take over,
and waiting calls that are repeated there do not change them. ``DASK_HA_TEST_SEEDS`` runs more.
"""

from __future__ import annotations

import asyncio
import os
from random import Random
from typing import Any

import pytest

from ha_scheduler.engine.scheduler import Scheduler
from tests.engine.conftest import follow, rebuild
from tests.engine.coordination import Caller, Cell, cell

SEEDS = int(os.environ.get("DASK_HA_TEST_SEEDS", "20"))
N_CALLS = 120
NAMES = ("a", "b")
WAITS = ("queue_put", "queue_get", "event_wait", "multi_lock_acquire")  # perhaps
STEPS = 50  # of the event loop, in which whatever does not wait has been answered


async def settle_loop() -> None:
    for _ in range(STEPS):
        await asyncio.sleep(0)


def state_of(scheduler: Scheduler) -> dict[str, Any]:
    """What an engine has of coordination objects, but for when leases were seen."""
    extensions = scheduler.extensions
    queues, locks = extensions["queues"], extensions["multi_locks"]
    semaphores, events = extensions["semaphores"], extensions["events"]
    return {
        "queues": {
            name: (queue.maxsize, queues.client_refcount[name], list(queue.items.items()))
            for name, queue in queues.queues.items()
        },
        "variables": extensions["variables"].variables,
        "semaphores": semaphores.max_leases,
        "leases": {name: set(ids) for name, ids in semaphores.leases.items() if ids},
        "lines": {name: line for name, line in locks.locks.items() if line},
        "left": locks.requests_left,
        "events": {name for name, event in events._events.items() if event.is_set()},
        "waiters": events._waiters,
        "datasets": {name: each["data"] for name, each in extensions["publish"].datasets.items()},
        "metadata": scheduler.task_metadata,
    }


class Crowd:
    """Callers that do something at random, and go on where they wait."""

    def __init__(self, own: Cell, seed: int) -> None:
        self._random = Random(seed)
        self._own = own
        self._callers = [Caller(own, f"s{n}") for n in range(3)]
        self.waiting: dict[tuple[Caller, int], asyncio.Task[Any]] = {}
        self._numbers = iter(range(10_000))
        self._slots = iter(range(1, 10_000))
        self._locked: list[str] = []

    async def step(self) -> None:
        caller = self._random.choice(self._callers)
        op, kwargs = self._choose()
        slot = next(self._slots)
        if op == "publish_put" or op == "publish_delete":
            flush = self._own.leader.stream_handlers["publish_flush_batched_send"]
            flush(client="c", uid=kwargs["uid"])
        task = caller.call(op, slot, **kwargs)
        if op in WAITS:
            await settle_loop()
        else:
            await asyncio.wait([task])
        if not task.done():
            self.waiting[caller, slot] = task
        elif task.exception() is None and op == "multi_lock_acquire":
            self._locked.append(kwargs["id"])
        for at in [at for at, waits in self.waiting.items() if waits.done()]:
            waited = self.waiting.pop(at)
            assert waited.exception() is None

    def _choose(self) -> tuple[str, dict[str, Any]]:
        pick, number = self._random.choice, next(self._numbers)
        name = pick(NAMES)
        published = {"names": (name,), "client": "c", "uid": str(number)}
        choices: list[tuple[str, dict[str, Any]]] = [
            ("queue_create", {"name": name, "maxsize": 3}),
            ("variable_set", {"name": name, "data": number}),
            ("variable_delete", {"name": name}),
            ("event_set", {"name": name}),
            ("event_clear", {"name": name}),
            ("event_wait", {"name": name}),
            ("semaphore_register", {"name": name, "max_leases": 2, "lease_timeout": 60}),
            ("multi_lock_acquire", {"locks": list("xyz"), "id": f"i{number}", "num_locks": 2}),
            ("publish_put", {**published, "keys": ((),), "data": (number,), "override": True}),
            ("publish_delete", published),
            ("set_metadata", {"keys": [name, "key"], "value": number}),
        ]
        if name in self._own.leader.extensions["queues"].queues:
            choices += [("queue_put", {"name": name, "data": number})] * 4
            choices += [("queue_get", {"name": name, "batch": pick([False, True])})] * 3
            if not self.waiting:  # as with upstream, nobody may wait at a queue that goes
                choices += [("queue_release", {"name": name})]
        if name in self._own.leader.extensions["semaphores"].max_leases:
            lease = {"name": name, "lease_id": f"l{number}", "timeout": 0.001}
            held = list(self._own.leader.extensions["semaphores"].leases[name])
            choices += [("semaphore_acquire", lease)] * 2
            choices += [("semaphore_release", {"name": name, "lease_id": each}) for each in held]
        if self._locked:
            choices += [("multi_lock_release", {"id": self._locked[0]})]
        op, kwargs = pick(choices)
        if op == "multi_lock_release":
            self._locked.remove(kwargs["id"])
        return op, kwargs


@pytest.mark.parametrize("successor", [follow, rebuild])
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_new_leader_has_the_objects_of_the_old_one(successor: Any, seed: int) -> None:
    async with cell(successor) as own:
        crowd = Crowd(own, seed)
        for _ in range(N_CALLS):
            await crowd.step()
        expected = state_of(own.leader)
        await own.fail_over()
        assert state_of(own.leader) == expected
        again = [caller.repeat(slot) for caller, slot in crowd.waiting]
        await settle_loop()
        assert not any(call.done() for call in again)
        assert state_of(own.leader) == expected
