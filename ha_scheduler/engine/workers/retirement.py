"""Retirements and restarts of workers. What one leader began, the next finishes.

Guarantee: a retirement or restart whose leader died is carried through by the next one, retried or
not. After ``restart`` has been answered no former task or result is left, under any leader, and no
worker is touched before that is certain: its first record makes everything void, its last one is
awaited before a worker is killed or a client told. If the first has not committed, the restart did
not happen; otherwise the next leader kills the remaining former workers. The caller is answered in
both cases (``operations.py``). A worker's last order, to close or to work again, is repeated by the
next leader that it joins.

Order: a row is written when a departure begins, and deleted when the worker is gone or stays; that
record says whether it was dismissed. A worker is known by the id of its process: another one at its
address is not meant.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from time import time
from typing import Any

from distributed.core import Status
from distributed.scheduler import WorkerState
from distributed.utils import Deadline

from ha_scheduler.engine.clients.intents import Intents
from ha_scheduler.engine.compat import nanny_pool
from ha_scheduler.engine.fencing import hold
from ha_scheduler.engine.step import OTHER, Step
from ha_scheduler.engine.stream.tables import Change, Table
from ha_scheduler.engine.workers.operations import (
    TIMED_OUT,
    Leaving,
    Place,
    WorkerOperation,
    WorkerOperations,
)
from ha_scheduler.ledger.records import Restarted

logger = logging.getLogger(__name__)

RETIREMENTS = "departure"  # id of the worker's process → its departure
#: Id of the process → a number that rises, and what it has to do; the oldest first
DISMISSED = "dismissed"

#: Address of the worker, "retire" or "restart"; of a retirement: close it then, remove it then
Departure = tuple[str, str, bool, bool]

DISMISSED_MAX = 1_000  # a worker that was told to close and is still there comes within moments

#: What a dismissed worker has to do: end with its nanny, end and leave it to its nanny to start it
#: anew, or nothing that it would be told, for it closes by itself
CLOSE, START_ANEW, NOTHING = "close", "start anew", ""

# Of the arguments of a retirement; the others choose (scheduler.py:7477)
_OF_RETIREMENTS = ("close_workers", "remove", "stimulus_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarting(Step):
    """``restart`` makes everything void."""

    operation: WorkerOperation


class Retirement(Intents):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.retirements: dict[str, Departure] = {}
        self.worker_operations = WorkerOperations(self, self.retirements)
        self.dismissed: dict[str, tuple[int, str]] = {}
        self._retirements = self.tables.add(
            Table(RETIREMENTS, self.retirements, lead=self._inherit_departures)
        )
        self._dismissed = self.tables.add(Table(DISMISSED, self.dismissed))
        self._retiring: set[str] = set()  # addresses of workers whose retirement is under way here
        self._inherited: set[str] = set()  # those that a former leader began
        self._resumed: set[asyncio.Task[None]] = set()

    # Retirements

    async def retire_workers(
        self, workers: list[str] | None = None, *, names: list[Any] | None = None, **how: Any
    ) -> dict[str, Any]:
        """As upstream's, once the next leader would certainly retire the same ones."""
        retired: dict[str, Any] = await self.worker_operations.once(
            lambda place: self._retire(place, workers, names, how)
        )
        return retired

    async def _retire(
        self, place: Place | None, workers: list[str] | None, names: Any, how: dict[str, Any]
    ) -> Any:
        choosing = {name: value for name, value in how.items() if name not in _OF_RETIREMENTS}
        is_clear = (workers is not None) + (names is not None) + bool(choosing) <= 1
        if place is None or not is_clear:  # upstream says what is wrong with it
            return await super().retire_workers(workers, names=names, **how)  # type: ignore[call-overload]
        chosen = self._chosen(workers, names, choosing)
        how = {name: value for name, value in how.items() if name not in choosing}
        close, remove = how.get("close_workers", False), how.get("remove", True)
        if not chosen:
            return {}
        leaving = {ws.server_id: Leaving(ws.address, ws.nanny, ws.identity()) for ws in chosen}
        operation = WorkerOperation("retire_workers", leaving)
        begun = [self._begin(ws, (ws.address, "retire", close, remove)) for ws in chosen]
        self.worker_operations.begin(place, operation, *begun)
        try:
            await self.worker_operations.begun(operation)
            present = self._present(operation)
            retired = await super().retire_workers(present, **how)
            gone = (w for w in leaving.values() if w.address not in present)
            return {**{worker.address: worker.info for worker in gone}, **retired}
        finally:
            for ws in chosen:
                self._end_departure(ws.server_id)

    def _chosen(
        self, workers: list[str] | None, names: Any, choosing: dict[str, Any]
    ) -> list[WorkerState]:
        """Who is to retire (scheduler.py:7539)."""
        if names is not None:
            wanted = {str(name) for name in names}
            return [ws for ws in self.workers.values() if str(ws.name) in wanted]
        if workers is None:
            workers = self.workers_to_close(**choosing)
        return [self.workers[address] for address in set(workers) if address in self.workers]

    def _track_retire_worker(
        self, ws: WorkerState, policy: Any, prev_status: Status, *args: Any, **how: Any
    ) -> Coroutine[Any, Any, Any]:
        """As upstream's, which gives a worker that cannot retire its former status back.

        One that was retiring under an earlier leader then works again. Called in the step of the
        status change (scheduler.py:7601), awaited later.
        """
        if prev_status == Status.closing_gracefully:
            prev_status = Status.running
        departure = (ws.address, "retire", how["close"], how["remove"])
        if self.retirements.get(ws.server_id) != departure:
            self.transactions.note(self._begin(ws, departure))
        tracked = super()._track_retire_worker(ws, policy, prev_status, *args, **how)
        self._retiring.add(ws.address)
        return self._until_it_ended(ws, tracked)

    async def _until_it_ended(self, ws: WorkerState, tracked: Coroutine[Any, Any, Any]) -> Any:
        outcome = "failed"
        try:
            _, outcome, _ = result = await tracked
            return result
        finally:
            self._retiring.discard(ws.address)
            if outcome != "OK":
                self.worker_operations.note(ws.server_id, outcome)
            self._end_departure(ws.server_id, gone=outcome == "OK")

    # Restarts

    async def restart(self, **how: Any) -> Any:
        """As upstream's, as a worker operation."""
        return await self.worker_operations.once(lambda place: self._restart(place, **how))

    async def _restart(
        self, place: Place | None, timeout: float = 30, wait_for_workers: bool = True, **how: Any
    ) -> Any:
        await hold(self.lease)  # what a leader of the past would do to workers cannot be undone
        self.pending_releases.give_way_to_all()  # or else it would outlive the others, half-way
        leaving = {ws.server_id: _leaving(ws) for ws in self.workers.values()}
        operation = WorkerOperation(
            "restart", leaving, len(self.workers), timeout, wait_for_workers, raises=True
        )
        begun = [self._begin(ws, _restart_of(ws)) for ws in self.workers.values()]
        self.worker_operations.begin(place, operation, *begun, first=Restarted())
        with self.during(
            Restarting(releases=True, operation=operation)
        ):  # ended by ``restart_workers``
            return await super().restart(timeout=timeout, wait_for_workers=wait_for_workers, **how)

    def end_of_everything(self) -> None:
        self.record(Restarted(), self.transactions.mark())

    def report(self, msg: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """As upstream's; clients are told of a restart when it has committed."""
        if not isinstance(self.step, Restarting) or msg.get("op") != "restart":
            super().report(msg, *args, **kwargs)

    async def restart_workers(self, workers: list[str] | None = None, **how: Any) -> Any:
        """As upstream's, once the next leader would certainly do it as well."""
        step, self.step = self.step, OTHER
        if isinstance(step, Restarting):  # upstream's ``restart`` goes on here
            del how["wait_for_workers"]
            return await self._end_workers(step.operation, **how)
        return await self.worker_operations.once(
            lambda place: self._restart_some(place, workers, **how)
        )

    async def _restart_some(
        self,
        place: Place | None,
        workers: list[str] | None,
        timeout: float = 30,
        wait_for_workers: bool = True,
        on_error: str = "raise",
        **how: Any,
    ) -> Any:
        await hold(self.lease)
        wanted = self.workers if workers is None else workers
        chosen = [self.workers[address] for address in set(wanted) if address in self.workers]
        operation = WorkerOperation(
            "restart_workers",
            {ws.server_id: _leaving(ws) for ws in chosen},
            len(self.workers),
            timeout,
            wait_for_workers,
            raises=on_error == "raise",
        )
        begun = [self._begin(ws, _restart_of(ws)) for ws in chosen]
        self.worker_operations.begin(place, operation, *begun)
        return await self._end_workers(operation, timeout=timeout, **how)

    async def _end_workers(self, operation: WorkerOperation, timeout: float, **how: Any) -> Any:
        """Upstream's ``restart_workers``, without the wait for the new ones."""
        deadline = Deadline.after(timeout)
        await hold(self.lease)
        await self.worker_operations.begun(operation)
        if operation.op == "restart":
            super().report({"op": "restart"})
        ended = dict.fromkeys((w.address for w in operation.leaving.values()), TIMED_OUT)
        pool = nanny_pool.set(self.rpc)  # ours, which waits for the lease
        try:
            told = await super().restart_workers(
                self._present(operation),
                timeout=timeout,
                wait_for_workers=False,
                on_error="return",
                **how,
            )
            ended = {w.address: told.get(w.address, w.end) for w in operation.leaving.values()}
        finally:
            nanny_pool.reset(pool)
            for worker_id, worker in operation.leaving.items():
                late = ended[worker.address] == TIMED_OUT
                if late:
                    self.worker_operations.note(worker_id, TIMED_OUT)
                self._end_departure(worker_id, gone=not late)
        return await self.worker_operations.conclude(operation, ended, deadline)

    def _present(self, operation: WorkerOperation) -> list[str]:
        """The addresses of those that have to go and are still there."""
        present = {ws.server_id for ws in self.workers.values()}
        return [worker.address for i, worker in operation.leaving.items() if i in present]

    # What the ledger knows of them

    def _begin(self, ws: WorkerState, departure: Departure) -> Change:
        """A worker is about to go; returns the change to record."""
        self._inherited.discard(ws.server_id)
        return self._retirements.set(ws.server_id, departure)

    def _end_departure(self, worker_id: str, *, gone: bool = False) -> None:
        self._inherited.discard(worker_id)
        departure = self.retirements.get(worker_id)
        if departure is not None:
            changes = self._dismiss(worker_id, departure) if gone else self._readmit(worker_id)
            self.transactions.note(self._retirements.delete(worker_id), *changes)
            self.worker_operations.moved()

    def end_departures_at(self, address: str, *, retired: bool = False) -> None:
        """The worker at this address is gone. ``retired``: its data is elsewhere.

        One that was lost while it retired may come back with data, and works again then.
        """
        for worker_id, (at, kind, *_) in list(self.retirements.items()):
            if at == address:
                self._end_departure(worker_id, gone=retired or kind == "restart")

    def worker_came(self, address: str) -> None:
        """Another process at this address is gone."""
        present = self.workers[address].server_id
        for worker_id in [i for i, (at, *_) in self.retirements.items() if at == address]:
            if worker_id != present:
                self._end_departure(worker_id)
        self.worker_operations.moved()

    def _dismiss(self, worker_id: str, departure: Departure) -> list[Change]:
        """It has gone, or is about to; returns the changes to record."""
        _, kind, close, _ = departure
        changes = self._readmit(worker_id)
        if len(self.dismissed) >= DISMISSED_MAX:
            changes += self._readmit(next(iter(self.dismissed)))
        last, _ = next(reversed(self.dismissed.values()), (0, NOTHING))
        closing = CLOSE if close else NOTHING
        row = (last + 1, START_ANEW if kind == "restart" else closing)
        return [*changes, self._dismissed.set(worker_id, row)]

    def _readmit(self, worker_id: str) -> list[Change]:
        return [self._dismissed.delete(worker_id)] if worker_id in self.dismissed else []

    # Workers that join

    def farewell(self, worker_id: str) -> dict[str, Any] | None:
        """The order to close, for a worker that has not heard it."""
        _, what = self.dismissed.get(worker_id, (0, NOTHING))
        if what == NOTHING:
            return None
        return {"op": "close", "nanny": what == CLOSE, "reason": "scheduler-remove-worker"}

    def let_work_again(self, addresses: Iterable[str]) -> None:
        """Workers that take themselves for retiring, and are not, work again."""
        for address in addresses:
            ws = self.workers.get(address)
            if ws is None or ws.status != Status.closing_gracefully or address in self._retiring:
                continue
            if ws.server_id not in self.retirements and ws.server_id not in self.dismissed:
                logger.info("Worker %s does not retire.", address, extra={"action": "works_again"})
                message = {"op": "worker-status-change", "status": Status.running.name}
                self.stream_comms[address].send({**message, "stimulus_id": f"ha-stays-{time()}"})

    # At a takeover

    def _inherit_departures(self) -> None:
        """This engine is about to lead: departures in progress are a former leader's."""
        self._inherited = set(self.retirements)
        in_order = sorted(self.dismissed.items(), key=lambda item: item[1])
        self.dismissed.clear()
        self.dismissed.update(in_order)

    def resume_departures(self, addresses: Iterable[str]) -> None:
        """Those of these workers that were about to go do so."""
        for address in addresses:
            ws = self.workers.get(address)
            if ws is not None and ws.server_id in self._inherited:
                self._inherited.discard(ws.server_id)
                task = asyncio.create_task(self._resume(ws, self.retirements[ws.server_id]))
                self._resumed.add(task)
                task.add_done_callback(self._resumed.discard)

    async def _resume(self, ws: WorkerState, departure: Departure) -> None:
        address, kind, close, remove = departure
        logger.info(
            "Worker %s goes on to %s.", address, kind, extra={"action": "departure_resumed"}
        )
        try:
            if kind == "retire":
                await self.retire_workers([address], close_workers=close, remove=remove)
            else:
                await self.restart_workers(
                    [address],
                    wait_for_workers=False,
                    on_error="return",
                    stimulus_id=f"ha-restart-{time()}",
                )
        except Exception:  # nobody waits for it; also what upstream reports of the worker
            logger.exception(
                "Worker %s did not %s; ask for it again.",
                address,
                kind,
                extra={"action": "departure_failed"},
            )


def _restart_of(ws: WorkerState) -> Departure:
    return ws.address, "restart", False, False


def _leaving(ws: WorkerState) -> Leaving:
    return Leaving(ws.address, ws.nanny)
