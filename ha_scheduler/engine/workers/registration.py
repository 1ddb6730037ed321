"""Registration of workers with their reports.

Guarantee: a worker's stream is neither read nor written before its report is adopted, so the leader
knows the tasks that it speaks of (hazards 3 to 5 and 31). The end of a connection never removes a
newer registration (hazard 10).

Wire: ``protocol/worker.py``. A running worker registers as paused and becomes running when adopted,
because ``Scheduler.add_worker`` schedules onto a running worker at once.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from time import time
from typing import Any, cast

from distributed.batched import BatchedSend
from distributed.comm import Comm, CommClosedError
from distributed.core import Status
from distributed.scheduler import TaskState, heartbeat_interval
from distributed.utils import log_errors

from ha_scheduler.comm.one_by_one import OneByOneComm
from ha_scheduler.comm.permitted import denials
from ha_scheduler.comm.roles import identity_of
from ha_scheduler.engine.fencing import FencedComm
from ha_scheduler.engine.refusals import CheckedWorkerComm, refuse
from ha_scheduler.engine.stream.task_errors import erred_fields
from ha_scheduler.engine.takeover.inherited_tasks import InheritedTasks
from ha_scheduler.engine.takeover.reports import exposure_of_report
from ha_scheduler.engine.workers.expected import CALL_SECONDS, ExpectedWorkers
from ha_scheduler.engine.workers.probe import Reach, WorkerSilent, call, reach, until_gone
from ha_scheduler.errors import SetAside
from ha_scheduler.protocol.client import HA
from ha_scheduler.protocol.codec import MalformedMessage, from_op, to_op
from ha_scheduler.protocol.worker import (
    OTHER_CELL,
    STALE,
    SUBMITTER,
    RegisterPlainWorker,
    RegisterWorker,
    Report,
    RunNamed,
)
from ha_scheduler.security.identity import ANYBODY_LOCAL, Identity

logger = logging.getLogger(__name__)

LISTEN_SECONDS = 15.0  # a worker sends a heartbeat at least every ten, answered or not
RETURN_SECONDS = 5.0  # a worker that lives and lost its connection joins again within a fraction

# What upstream removes a worker with when it sends to a stream that has closed (6278, 6320)
_SEND_FAILED = ("worker-send-comm-fail", "send-all-comm-fail")
# For a worker whose report ends leaders: its nanny starts another one
_BEGIN_ANEW = {"op": "close", "nanny": False, "reason": "ha-report-set-aside"}
_AGAIN = "ask again"  # the former worker's connection is still open
_MAY_COME_BACK = (Status.running, Status.paused)


class Workers(ExpectedWorkers, InheritedTasks):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._reports: dict[str, tuple[Report, str]] = {}  # by address, with the status
        self._following: set[str] = set()  # addresses of registered workers that follow the leader

    @log_errors
    async def ha_register_worker(
        self, comm: Any, *, address: str, status: str, ha: Any = None, **fields: Any
    ) -> Any:
        """Register a worker that follows the leader, with its report."""
        try:
            joining = from_op(RegisterWorker, {**fields, "address": address, "ha": ha}).ha
        except MalformedMessage as error:
            return await refuse(comm, error)
        if self._is_behind(joining.term, joining.cell_id):
            await comm.write({"status": STALE, "term": self.term, "time": time()})
            return None
        if self._is_foreign(joining.cell_id):
            logger.warning(
                "Worker %s is of the cell %s, and begins anew in this one, %s.",
                address,
                joining.cell_id,
                self.cell.cell_id,
                extra={"action": "other_cell"},
            )
            answer = {"status": OTHER_CELL, "time": time(), HA: to_op(self.welcome())}
            await comm.write(answer)
            return None
        report, plugins = joining.report, joining.plugins
        fenced = FencedComm(comm, self.lease, lambda reply: self._amend(reply, plugins))
        if farewell := self.farewell(fields["server_id"]):
            return await self._send_away(fenced, address, farewell)
        try:
            self.exposures.check(exposure_of_report(fields["server_id"], address))
        except SetAside as error:
            logger.error("%s", error, extra={"action": "report_set_aside"})
            return await self._send_away(fenced, address, _BEGIN_ANEW)
        identity, known = identity_of(comm), self.workers.get(address)
        if known is not None and known.server_id != fields["server_id"]:
            if why := await self._still_there(identity, address, fields["server_id"]):
                return await self._turn_away(comm, identity, why)
            known = self.workers.get(address)
        self._latest[address] = fenced
        if known is not None and known.server_id == fields["server_id"]:
            self.worker_callers[address] = identity
            return await self._take_back(fenced, address, report, status)
        if known is not None:
            await self.remove_worker(address, stimulus_id=f"ha-replaced-{time()}", close=False)
        self.worker_callers[address] = identity
        self._reports[address] = (report, status)
        self._following.add(address)
        running = status == Status.running.name
        first = Status.paused.name if running else status
        try:
            return await super().add_worker(
                cast("Comm", fenced), address=address, status=first, **fields
            )
        finally:
            await self._unless_served(address, fenced)

    async def _still_there(self, identity: Identity, address: str, server_id: str) -> str | None:
        """Why the worker at ``address`` is not replaced by another process; None: it is gone.

        It is asked itself, for no other listens there. A process that has begun there answers
        nobody before it is registered, and the stream of the former one has ended with it.
        """
        if identity is ANYBODY_LOCAL:
            return None  # as upstream
        try:
            there = await call(address, self.rpc(address).identity(), CALL_SECONDS)
        except WorkerSilent:
            stream = self.stream_comms.get(address)
            open_still = stream is not None and stream.comm is not None and not stream.comm.closed()
            return _AGAIN if open_still else None
        except OSError:
            return None
        if there.get("id") == server_id:
            return None
        return f"register-worker: another worker answers at {address}"

    async def _turn_away(self, comm: Any, identity: Identity, why: str) -> None:
        if why is _AGAIN:
            await comm.write({"status": STALE, "term": self.term, "time": time()})
            return
        denials.note(identity, "register-worker", why)
        await refuse(comm, PermissionError(why))

    async def _send_away(self, comm: FencedComm, address: str, farewell: dict[str, Any]) -> None:
        """Tell a dismissed worker to close, as on a stream; it is not registered."""
        logger.info("Worker %s is told once more to close.", address, extra={"action": "sent_away"})
        if address in self.recovery.awaited:
            self._forget_expected(address)
        interval = heartbeat_interval(len(self.workers))
        answer = {"status": "OK", "time": time(), "heartbeat-interval": interval}
        with suppress(OSError):
            await comm.write({**answer, "worker-plugins": {}})
            await comm.write([farewell])
            while True:
                await comm.read()  # until it has closed

    async def _unless_served(self, address: str, comm: FencedComm) -> None:
        """A worker that was registered and could not be told has lost its connection.

        Upstream leaves it without a stream until its time to live is over (scheduler.py:4796).
        """
        if self._latest.get(address) is comm:
            del self._latest[address]
            if address in self.workers:
                await self._connection_lost(address, self.stream_comms[address])
            if address not in self.workers:
                self._will_not_report(address)

    async def _take_back(self, comm: FencedComm, address: str, report: Report, status: str) -> None:
        logger.info("Worker %s is back.", address, extra={"action": "worker_back"})
        self.stream_comms[address].abort()
        stream = BatchedSend(interval="5ms", loop=self.loop)
        self.stream_comms[address] = stream
        self._reports[address] = (report, status)
        self.workers[address].last_seen = time()
        answer = {
            "status": "OK",
            "time": time(),
            "heartbeat-interval": heartbeat_interval(len(self.workers)),
            "worker-plugins": self.worker_plugins,
        }
        try:
            await comm.write(answer)
            await self.handle_worker(comm, address)
        finally:
            await self._unless_served(address, comm)

    async def add_worker(self, comm: Any, **fields: Any) -> Any:
        """Register a worker of upstream's kind. It cannot report, so it waits for the barrier."""
        try:
            from_op(RegisterPlainWorker, fields)
        except MalformedMessage as error:
            return await refuse(comm, error)
        await self.recovery.opened()
        if fields["address"] not in self.workers:
            self.worker_callers[fields["address"]] = identity_of(comm)
        return await super().add_worker(cast("Comm", FencedComm(comm, self.lease)), **fields)

    def _amend(self, reply: dict[str, Any], held: dict[str, str]) -> dict[str, Any]:
        wanted = {
            name: data
            for name, data in reply.get("worker-plugins", {}).items()
            if held.get(name) != hashlib.sha256(data).hexdigest()
        }
        return {**reply, "worker-plugins": wanted, HA: to_op(self.welcome())}

    async def handle_worker(self, comm: Any, worker: str) -> None:
        """Adopt the worker's report, then serve its stream until it ends."""
        if worker in self._following:
            if self._latest.get(worker) is not comm:
                raise CommClosedError(f"{worker} has registered anew meanwhile")
            del self._latest[worker]
        comm.name = "Scheduler connection to worker"
        stream = self.stream_comms[worker]
        self._record_join(worker)
        try:
            await self._adopt(worker)
            stream.start(OneByOneComm(comm, functools.partial(self._unsendable, worker)))
            checked: Any = CheckedWorkerComm(comm, worker, self.stream_handlers)
            await self.handle_stream(comm=checked, extra={"worker": worker})
        finally:
            if worker in self.stream_comms and self.stream_comms[worker] is stream:
                stream.abort()
                await self._connection_lost(worker, stream)

    def _unsendable(self, worker: str, message: dict[str, Any], error: Exception) -> None:
        """A worker cannot be told of a task, as no other could: the task has failed."""
        if message["op"] == "compute-task":
            reason = RuntimeError(f"The task cannot be sent: {type(error).__name__}: {error}")
            self.handle_task_erred(
                key=message["key"],
                worker=worker,
                run_id=message["run_id"],
                stimulus_id=f"ha-unsendable-{time()}",
                **erred_fields(reason),
            )

    def part_with_revoked(self) -> None:
        """Workers whose tokens are revoked are gone: they are not awaited, as others would be."""
        ring = self.callers.ring
        for worker, stream in list(self.stream_comms.items()):
            shown = identity_of(stream.comm).token_id if stream.comm is not None else ""
            if ring is not None and shown in ring.revoked:
                self._following.discard(worker)

    async def _connection_lost(self, worker: str, stream: BatchedSend) -> None:
        """Remove the worker, unless it lives and returns.

        Its results would be computed anew otherwise. It counts as paused meanwhile, and is sent
        nothing.
        """
        ws = self.workers[worker]
        if worker in self._following and ws.status in _MAY_COME_BACK:
            # Upstream removes a worker to whose closed stream it sends; one that has not started
            # takes what is sent, and the worker's report on its return makes up for it.
            stream = BatchedSend(interval="5ms", loop=self.loop)
            self.stream_comms[worker] = stream
            self.handle_worker_status_change("paused", ws, f"ha-lost-{time()}")
            await self._until_it_is_gone(worker, stream)
        if self.stream_comms.get(worker) is stream:
            await self.remove_worker(worker, stimulus_id=f"handle-worker-cleanup-{time()}")

    async def _until_it_is_gone(self, worker: str, stream: BatchedSend) -> None:
        """Wait for the return of a worker: ``RETURN_SECONDS`` for one that answers at its address,
        ``worker-ttl`` for one that is there and silent (``check_worker_ttl``).
        """
        if await reach(worker, CALL_SECONDS) is Reach.REFUSED:
            return
        try:
            await call(worker, self.rpc(worker).identity(), CALL_SECONDS)
        except WorkerSilent:
            await until_gone(worker, lambda: self.stream_comms.get(worker) is stream)
        except OSError:
            pass
        else:
            await asyncio.sleep(RETURN_SECONDS)

    async def _adopt(self, worker: str) -> None:
        self.recovery.settled(worker)
        if not self.recovery.is_open:
            await self.recovery.opened()
        if worker in self._reports:  # it came after the barrier had opened
            self.adopt_reports([worker], lambda stimulus_id: None)

    def adopt_reports(self, addresses: list[str], settle: Callable[[str], None]) -> None:
        """Adopt these workers' reports, settle what follows, let them work."""
        known = {a: self._reports.pop(a) for a in addresses if a in self.workers}
        stimulus_id = f"ha-adopt-{self.term}-{time()}"
        reports = {address: report for address, (report, _) in known.items()}
        reports = self.adoption.adopt(reports, stimulus_id)
        shuffles = self.extensions["shuffle"]
        shuffles.hear({address: report.shuffles for address, report in reports.items()})
        settle(stimulus_id)
        self.look_after_held(stimulus_id)
        self.spoke(known)
        shuffles.end_strays()
        self.adoption.settle_errors(reports, stimulus_id)
        if self.validate:
            self.validate_state()
        for address, report in reports.items():
            self.died_with_runs(address, report.died)
        self.fail_killers(stimulus_id)
        self._join({address: status for address, (_, status) in known.items()}, stimulus_id)
        self._place_unrunnable(stimulus_id)
        self.stimulus_queue_slots_maybe_opened(stimulus_id=stimulus_id)
        self.resume_departures(known)
        self.let_work_again(known)
        self.adoption.orphans.expire_later()

    def _record_join(self, address: str) -> None:
        ws = self.workers[address]
        self.transactions.note(self._worker_rows.set(address, ws.name))
        self.worker_came(address)

    async def remove_worker(self, address: str, **kwargs: Any) -> Any:
        known = address in self.workers
        stimulus_id = str(kwargs.get("stimulus_id", ""))
        if address in self._following and stimulus_id.startswith(_SEND_FAILED):
            return "already-removed"  # the end of its stream is about to be noticed
        self._reports.pop(address, None)
        self._following.discard(address)
        self.worker_callers.pop(address, None)
        self.adoption.forget_worker(address)
        retired = bool(kwargs.get("expected"))  # which upstream says of no others
        self.end_departures_at(address, retired=retired)
        if known:
            self.pending_releases.give_way_to_all()
            self.calls.abandon(self.workers[address].server_id)
            self.transactions.note(self._worker_rows.delete(address))
        return await super().remove_worker(address, **kwargs)

    async def check_worker_ttl(self) -> None:
        """As upstream's, but after this engine has read what workers sent while it was frozen."""
        now = time()
        if self.worker_ttl and any(
            now - ws.last_seen > self.worker_ttl for ws in self.workers.values()
        ):
            await asyncio.sleep(min(LISTEN_SECONDS, self.worker_ttl))
            await super().check_worker_ttl()

    # Whose a task is

    def _task_to_msg(self, ts: TaskState) -> dict[str, Any]:
        """As upstream's, with the subject for which a task that submits acts."""
        message: dict[str, Any] = super()._task_to_msg(ts)
        if ts.suspicious:
            self.on_trial(ts)
        graph = self.graphs.maker_of(ts.key)  # 0: it is being made
        subject = self.graphs.subjects.get(graph, "") or self.subject_of(self.step.desires_of)
        if subject and ts.processing_on is not None and ts.processing_on.address in self._following:
            message[SUBMITTER] = subject
        return message

    # Copies that workers are told to make

    def request_acquire_replicas(self, addr: str, *args: Any, **kwargs: Any) -> None:
        """As upstream's; the worker is named a run id first, as with a task."""
        self._name_run(addr)
        super().request_acquire_replicas(addr, *args, **kwargs)

    async def gather_on_worker(self, worker_address: str, *args: Any, **kwargs: Any) -> Any:
        """As upstream's; likewise."""
        self._name_run(worker_address)
        return await super().gather_on_worker(worker_address, *args, **kwargs)

    def _name_run(self, worker: str) -> None:
        if self.recorder is not None and worker in self._following:
            self.stream_comms[worker].send(to_op(RunNamed(self.recorder.next_id())))
