"""Restarts and retirements of workers, which a leader may not live to answer.

Guarantee: such a numbered call (``ledger/calls.py``) is carried out once and answered when it is
over, whoever leads by then. The workers concerned are chosen once. An error (a worker is late) is
an answer as well. A call that was not recorded when its leader died had no effect; the next leader
begins it.

Order: one record holds the call, the workers that go, and that they are about to
(``retirement.py``); no worker is touched before it has committed. An unusual outcome of a worker is
recorded before its departure ends. The last record holds the answer and deletes the first.

Each call runs in a task of its own that outlives its caller: a worker that was told to retire would
be left without work otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from distributed.utils import Deadline

from ha_scheduler import failpoints
from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.tables import Change, Table
from ha_scheduler.engine.stream.transactions import Call, Transactions, take_call
from ha_scheduler.ledger.records import Record

logger = logging.getLogger(__name__)

WORKER_OPERATIONS = "worker-operation"  # place → the operation
#: (place, id of a worker) → what became of it, if not the ordinary
OUTCOMES = "worker-operation-outcome"

#: The calls that may be answered by a later leader than the one which began them.
OPERATIONS = frozenset({"restart", "restart_workers", "retire_workers"})

TIMED_OUT = "timed out"  # upstream's word for a worker that was not restarted in time

#: Session, slot and number of the call
Place = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Leaving:
    """A worker that has to go. ``info``: its part of a retirement's answer."""

    address: str
    nanny: str | None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def end(self) -> str:
        """Upstream's word for its restart, if all goes well."""
        return "OK" if self.nanny else "removed"


@dataclass(frozen=True, slots=True)
class WorkerOperation:
    """The call, the workers that go (by id of the process), and what it waits for.

    ``workers``: how many have to be back, if the caller ``waits``. ``timeout``: in seconds, of each
    leader, or None. ``raises``: a late worker is an error.
    """

    op: str
    leaving: dict[str, Leaving]
    workers: int = 0
    timeout: float | None = None
    waits: bool = False
    raises: bool = False


class WorkerOperations:
    def __init__(self, scheduler: SchedulerBase, retirements: Mapping[str, Any]) -> None:
        """``retirements``: by id, the workers that are to go and are still there."""
        self._scheduler = scheduler
        self._retirements = retirements
        self._transactions: Transactions = scheduler.transactions
        self._known: dict[Place, WorkerOperation] = {}
        self._outcomes: dict[tuple[Place, str], str] = {}
        self._tasks: dict[Place, asyncio.Task[Any]] = {}
        self._moved = asyncio.Event()
        self._operations = scheduler.tables.add(
            Table(WORKER_OPERATIONS, self._known, settle=self.restore)
        )
        self._outcome_rows = scheduler.tables.add(Table(OUTCOMES, self._outcomes))
        for op in OPERATIONS:
            scheduler.calls.present[op] = _present

    def _outcomes_of(self, place: Place) -> dict[str, str]:
        return {worker_id: what for (of, worker_id), what in self._outcomes.items() if of == place}

    # A call

    async def once(self, work: Callable[[Place | None], Coroutine[Any, Any, Any]]) -> Any:
        """Carry out the call in progress, or join it; ``work`` gets its place."""
        call = take_call()
        if not call.session:
            return await work(None)
        place = (call.session, call.slot, call.sequence)
        if place not in self._tasks:
            self._start(place, work(place))
        return await asyncio.shield(self._tasks[place])

    def _start(self, place: Place, work: Coroutine[Any, Any, Any]) -> None:
        task = self._tasks[place] = asyncio.create_task(self._see_through(place, work))

        def ended(task: asyncio.Task[Any]) -> None:
            del self._tasks[place]
            if not task.cancelled():
                task.exception()  # whoever waits for it has it; perhaps nobody does

        task.add_done_callback(ended)

    async def _see_through(self, place: Place, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            result = await work
        except Exception as error:
            self._answer(place, (False, error))
            raise
        self._answer(place, (True, result))
        return result

    def begin(
        self,
        place: Place | None,
        operation: WorkerOperation,
        *changes: Change,
        first: Record | None = None,
    ) -> None:
        """Record that a call begins, with its changes; ``place``: None if it has no number."""
        if place is not None:
            changes = (self._operations.set(place, operation), *changes)
        self._transactions.note(*changes, first=first)

    async def begun(self, operation: WorkerOperation) -> None:
        """Wait for the commit of that record."""
        failpoints.reach(f"{operation.op}.begun")
        await self._transactions.settled()
        failpoints.reach(f"{operation.op}.recorded")

    def _answer(self, place: Place, answer: tuple[bool, Any]) -> None:
        operation = self._known.get(place)
        if operation is None:
            return  # it has changed nothing
        failpoints.reach(f"{operation.op}.done")
        outcomes = [self._outcome_rows.delete((place, i)) for i in self._outcomes_of(place)]
        rows = [self._operations.delete(place), *outcomes]
        session, slot, sequence = place
        kept = self._scheduler.sessions.calls.answer(session, slot)
        if kept is not None and kept.sequence > sequence:  # its caller gave up
            self._transactions.note(*rows)
        else:
            self._transactions.answer(Call(operation.op, *place), *rows, answer=answer)

    # What happens to workers

    def note(self, worker_id: str, outcome: str) -> None:
        """Record an unusual outcome of a worker, before its departure ends."""
        for place, operation in self._known.items():
            if worker_id in operation.leaving:
                self._transactions.note(self._outcome_rows.set((place, worker_id), outcome))

    def moved(self) -> None:
        """A departure has ended, or a worker has come."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def _until(self, condition: Callable[[], bool], deadline: Deadline) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline.remaining):
                while not condition():
                    await self._moved.wait()
        return condition()

    # At a takeover

    def restore(self) -> None:
        """This engine leads: finish what was begun, retried or not."""
        for place, operation in self._known.items():
            logger.info(
                "A %s that an earlier leader began goes on.",
                operation.op,
                extra={"action": "worker_operation_resumed"},
            )
            self._start(place, self._go_on(place, operation))

    async def _go_on(self, place: Place, operation: WorkerOperation) -> Any:
        """``Retirement`` sees to the workers; wait for it, and answer."""
        departures = self._retirements
        deadline = Deadline.after(operation.timeout)
        await self._until(lambda: not departures.keys() & operation.leaving.keys(), deadline)
        outcomes = self._outcomes_of(place)
        if operation.op == "retire_workers":
            stayed = outcomes.keys()
            return {w.address: w.info for i, w in operation.leaving.items() if i not in stayed}
        for worker_id in departures.keys() & operation.leaving.keys():
            outcomes = {**outcomes, worker_id: TIMED_OUT}
        ended = {
            worker.address: outcomes.get(worker_id, worker.end)
            for worker_id, worker in operation.leaving.items()
        }
        return await self.conclude(operation, ended, deadline)

    async def conclude(
        self, operation: WorkerOperation, ended: dict[str, str], deadline: Deadline
    ) -> Any:
        """The answer of a restart whose workers have ended, when as many are back.

        Raises ``TimeoutError`` as upstream (scheduler.py:6577 and 6640).
        """
        late = [address for address, outcome in ended.items() if outcome == TIMED_OUT]
        if late and operation.raises:
            of = sum(1 for worker in operation.leaving.values() if worker.nanny)
            raise TimeoutError(
                f"{len(late)}/{of} nanny worker(s) did not shut down within {operation.timeout}s: "
                f"{set(late)}"
            )
        workers = self._scheduler.workers
        if operation.waits and not await self._until(
            lambda: len(workers) >= operation.workers, deadline
        ):
            missing = _missing(operation, len(workers))
            if operation.raises:
                raise TimeoutError(missing)
            logger.error(missing, extra={"action": "restart_incomplete"})
            back = {ws.nanny for ws in workers.values() if ws.nanny}
            for worker in operation.leaving.values():
                if worker.nanny and worker.nanny not in back:
                    ended[worker.address] = TIMED_OUT
        return None if operation.op == "restart" else ended


def _missing(operation: WorkerOperation, present: int) -> str:
    """Upstream's words (scheduler.py:6628)."""
    message = (
        f"Waited for {len(operation.leaving)} worker(s) to reconnect after restarting but, "
        f"after {operation.timeout}s, {operation.workers - present} have not returned. "
        "Consider a longer timeout, or `wait_for_workers=False`."
    )
    alone = sum(1 for worker in operation.leaving.values() if not worker.nanny)
    if alone:
        message += (
            f" The {alone} worker(s) not using Nannies were just shut down instead of restarted "
            "(restart is only possible with Nannies). If your deployment system does not "
            "automatically re-launch terminated processes, then those workers will never come "
            "back, and `Client.restart` will always time out. Do not use `Client.restart` in that "
            "case."
        )
    return message


def _present(answer: tuple[bool, Any]) -> Any:
    succeeded, result = answer
    if not succeeded:
        raise result
    return result
