"""A worker's link to the leader: join, notice the loss, join again.

Guarantees, and the order that keeps them:

- Nothing is told twice and nothing is lost. A broken stream's unsent messages are dropped: the
  report of the next registration covers them. From the report on, without an ``await``,
  everything is buffered for the new stream and sent when that starts.
- Events logged while nobody leads are sent on the next stream. Those on their way when the leader
  died are lost: no report has them.
- A leader of an older term than the highest seen is not obeyed (``comm/follower.py``): its stream
  is aborted, and the rest of a batch already read is ignored.
- Who calls the worker as its leader shows the certificate of an engine, and is followed when a
  daemon says that it leads.
- What the worker holds is told to its cell, and to the successor of that, and to no other.
- The loss of a leader never ends the worker. A "close" from the leader does, or
  ``ha.worker.rejoin-timeout`` without one that takes it.

Everything here runs on the worker's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections import deque
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Protocol

import dask
import distributed
from dask.utils import parse_timedelta
from distributed.batched import BatchedSend
from distributed.comm import CommClosedError, connect
from distributed.core import error_message, iscoroutinefunction
from distributed.metrics import time as wall_time
from distributed.worker import WORKER_ANY_RUNNING
from distributed.worker_state_machine import FreeKeysEvent, TaskErredMsg

from ha_scheduler.backoff import Backoff
from ha_scheduler.comm.backend import why
from ha_scheduler.comm.callers import Callers
from ha_scheduler.comm.decoding import UNREADABLE
from ha_scheduler.comm.follower import Follower, Meeting
from ha_scheduler.comm.one_by_one import OneByOneComm
from ha_scheduler.comm.preamble import IntroductionRefused
from ha_scheduler.comm.roles import NotALeader, check_leader, name_of
from ha_scheduler.protocol.codec import from_op
from ha_scheduler.protocol.worker import STALE, LeaderCalled
from ha_scheduler.worker import registration
from ha_scheduler.worker.executing import Executing
from ha_scheduler.worker.registration import (
    AnotherCell,
    PlainScheduler,
    Registered,
    RegistrationRefused,
    StaleLeader,
)
from ha_scheduler.worker.renewal import Renewal
from ha_scheduler.worker.report import report_of, shuffle_runs
from ha_scheduler.worker.runs import RunTracker

logger = logging.getLogger("distributed.worker.ha")

REJOIN_TIMEOUT = "ha.worker.rejoin-timeout"
REJOIN_TIMEOUT_DEFAULT = "1h"
PATIENCE_S = 3.0  # most leaders are replaced by then
CONNECT_S_MAX = 4.0  # to find who leads
HANDSHAKE_S_MAX = 1.0  # then
REPLY_S_MAX = 60.0  # the leader may first have to adopt many other workers
JOIN_BACKOFF_S_MAX = 0.1  # somebody waits for the worker to be there
COMPLAIN_EVERY_S = 10.0
EVENTS_MAX = 1_000  # logged while nobody leads; a topic keeps no more (``low-level-log-length``)
LOG_EVENT = "log-event"


class Phase(Enum):
    """What becomes of a message to the leader."""

    DOWN = auto()  # dropped: the next report says it
    BUFFERING = auto()  # kept: the report was made, the stream does not run yet
    UP = auto()  # sent


class Linked(Protocol):
    """What the link asks of a worker of ours beside upstream's."""

    runs: RunTracker
    callers: Callers
    executing: Executing
    plugin_digests: dict[str, str]

    def registered(self) -> None:
        """A leader took the worker in."""

    def forget_cell(self) -> None:
        """What is remembered of the cell's tasks is void."""

    async def add_missing_plugins(self, plugins: Mapping[str, bytes]) -> None:
        """Set up those that the worker does not have."""


class SchedulerLink:
    """One worker's link."""

    def __init__(self, worker: distributed.Worker, own: Linked) -> None:
        """``own``: the same worker, as ours."""
        self._worker = worker
        self._own = own
        self.phase = Phase.DOWN
        self.follower = Follower(self.abandon, own.callers.take)
        self.plain = False  # the scheduler is not one of a cell
        self._comm: Any = None
        self._renewal = Renewal(worker.connection_args)
        self._rejoining: asyncio.Task[None] | None = None
        self._stopped = False
        self._metrics_lock = asyncio.Lock()
        self._complained = 0.0
        self._calls: set[asyncio.Task[None]] = set()  # of leaders that no daemon has confirmed yet
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)

    # ---- what the worker asks for

    async def join(self) -> None:
        """Register for the first time. Waits for a leader; raises ``ValueError`` if refused."""
        backoff = Backoff(max_s=JOIN_BACKOFF_S_MAX)
        while True:
            try:
                return await self.follower.attempt(self._join_once())
            except PlainScheduler:
                self.plain = True
            except (RegistrationRefused, IntroductionRefused) as refused:
                logger.error(
                    "Unable to connect to scheduler: %s",
                    refused,
                    extra={"action": "scheduler_unreachable"},
                )
                raise ValueError(f"Unexpected response from register: {refused}") from refused
            except AnotherCell as other:
                await self._meet(other)
            except (OSError, TimeoutError) as error:
                logger.info("Waiting to connect to: %26s", self._worker.scheduler.address)
                logger.debug("because %s", why(error))
                await backoff.pause(self.follower.news)

    def send(self, message: dict[str, Any]) -> None:
        """Send, buffer or drop the message, by the phase."""
        stream = self._worker.batched_stream
        if message["op"] == LOG_EVENT and self.phase is not Phase.UP:
            self._events.append(message)
        elif self.phase is Phase.BUFFERING or (self.phase is Phase.UP and not self._comm.closed()):
            stream.send(message)

    async def metrics(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The metrics and those of the extensions, always taken together.

        Metrics without the extensions' make the next ones fail for ever (spans.py:662).
        """
        async with self._metrics_lock:
            metrics = await self._worker.get_metrics()
            extensions = {
                name: extension.heartbeat()
                for name, extension in self._worker.extensions.items()
                if hasattr(extension, "heartbeat")
            }
        return metrics, extensions

    def abandon(self, reason: str) -> None:
        """Leave the current leader, if any, and join again."""
        logger.info("Leaving the scheduler of term %d: %s", self.follower.fence.joined, reason)
        self._drop()
        if self._worker.status in WORKER_ANY_RUNNING:  # else ``join`` goes on by itself
            self._rejoin()

    def look_at_token(self) -> None:
        """Join again, if the token has been renewed."""
        if self.phase is Phase.UP and self._renewal.is_due():
            self.abandon("its token was renewed")

    async def stop(self) -> None:
        """Rejoin no more; an open stream stays for the goodbye."""
        self._stopped = True
        task, self._rejoining = self._rejoining, None
        if task is asyncio.current_task():
            task = None
        if task is not None:
            task.cancel()
        for call in self._calls:
            call.cancel()
        await self.follower.stop()
        if task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # ---- what comes from the cell

    def leader_called(self, comm: Any, **fields: Any) -> dict[str, Any]:
        """A leader presents itself; who shows no certificate of one is refused."""
        try:
            check_leader(comm)  # before what it says is looked at
            message, follower = from_op(LeaderCalled, fields), self.follower
            check_leader(comm, message.leader)
        except NotALeader as error:
            logger.warning(
                "Refused a call as the leader: %s", error, extra={"action": "leader_refused"}
            )
            return {"status": "refused", "message": str(error)}
        if message.cell_id and follower.cell_id and message.cell_id != follower.cell_id:
            follower.look_at(message.address)  # it may be the successor of our cell
            return {"status": "OK"}
        if message.term < follower.fence.term:
            return {"status": STALE, "term": follower.fence.term}
        if not self.plain:
            call = asyncio.ensure_future(self._believe(message))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        return {"status": "OK"}

    async def _believe(self, message: LeaderCalled) -> None:
        """Follow the caller, if a daemon says that it leads."""
        if await self.follower.confirms(message.term):
            if message.term >= self.follower.fence.term:
                self.follower.called(message.term, message.leader, message.address)
            return
        logger.warning(
            "%s calls itself the leader of term %d, and no peer of the cell says so: not followed",
            message.address,
            message.term,
            extra={"action": "leader_unconfirmed"},
        )

    # ---- the stream

    async def follow(self, comm: Any) -> None:
        """Handle the leader's messages until the stream ends, then rejoin."""
        try:
            await self._handle(comm)
        except CommClosedError:
            logger.info("Connection to %s has been closed.", comm.peer_address)
        finally:
            comm.abort()
        if comm is not self._comm:
            return
        self._drop()
        if self._worker.status not in WORKER_ANY_RUNNING or self.plain:
            await self._worker.close(reason="worker-handle-scheduler-connection-broken")
        else:
            self._rejoin()

    async def _handle(self, comm: Any) -> None:
        """core.py:861 ``Server.handle_stream``, which checks the leader before each message."""
        handlers = self._worker.stream_handlers
        while True:
            messages = await comm.read()
            for message in messages if isinstance(messages, (tuple, list)) else (messages,):
                if comm is not self._comm:
                    return
                if message == "OK":
                    break
                op = message.pop("op")
                if op == "close-stream":
                    return
                if UNREADABLE in message:
                    self._unreadable(op, message)
                    continue
                handler = handlers.get(op)
                if handler is None:
                    logger.error(
                        "The scheduler asks for %r, which this worker does not know",
                        op,
                        extra={"action": "order_unknown"},
                    )
                elif iscoroutinefunction(handler):
                    await handler(**message)
                else:
                    handler(**message)
            await asyncio.sleep(0)

    def _unreadable(self, op: str, message: dict[str, Any]) -> None:
        """What the leader says cannot be unpickled here; a task then has failed."""
        error = message[UNREADABLE]
        logger.error(
            "Could not read %r of the scheduler: %r",
            op,
            error,
            extra={"action": "message_unreadable"},
        )
        if op == "compute-task":
            failed = error_message(error)
            erred = TaskErredMsg(
                key=message["key"],
                run_id=message["run_id"],
                exception=failed["exception"],
                traceback=failed["traceback"],
                exception_text=failed["exception_text"],
                traceback_text=failed["traceback_text"],
                thread=None,
                startstops=[],
                stimulus_id=message["stimulus_id"],
            )
            self.send(erred.to_dict())

    def _dropped(self, message: dict[str, Any], error: Exception) -> None:
        """The stream has left this out. A report says what became of a task, an event is gone."""
        if message["op"] != LOG_EVENT:
            self.abandon(f"{message['op']} cannot be sent: {error}")

    def _drop(self) -> None:
        comm, self._comm = self._comm, None
        self.phase = Phase.DOWN
        if comm is not None:
            comm.abort()

    # ---- joining

    def _rejoin(self) -> None:
        if self._stopped:
            return  # its stream was lost while it closes
        if self._rejoining is None or self._rejoining.done():
            self._rejoining = asyncio.ensure_future(self._rejoin_until_taken())
        self.follower.news.set()

    async def _rejoin_until_taken(self) -> None:
        give_up_s = parse_timedelta(dask.config.get(REJOIN_TIMEOUT, REJOIN_TIMEOUT_DEFAULT), "s")
        deadline = time.monotonic() + give_up_s
        backoff = Backoff()
        warning = asyncio.get_running_loop().call_later(PATIENCE_S, self._warn, give_up_s)
        try:
            await self._rejoin_by(deadline, backoff, give_up_s)
        finally:
            warning.cancel()

    def _warn(self, give_up_s: float) -> None:
        logger.warning(
            "No leader of %s took this worker back for %.0f s. It keeps what it holds, goes on "
            "with what it runs, and looks for %.0f s in all; then it closes. %s, or in the "
            "environment DASK_HA__WORKER__REJOIN_TIMEOUT, shortens that.",
            self._worker.scheduler.address,
            PATIENCE_S,
            give_up_s,
            REJOIN_TIMEOUT,
            extra={"action": "leader_missing"},
        )

    async def _rejoin_by(self, deadline: float, backoff: Backoff, give_up_s: float) -> None:
        while self._worker.status in WORKER_ANY_RUNNING:
            try:
                await self.follower.attempt(self._join_once())
                if self.phase is Phase.UP:
                    return  # else it was left again while its plugins were installed
            except AnotherCell as other:
                self._complain(other)
                await self._meet(other)
            except Exception as error:  # until the deadline; what one leader does costs no results
                self._complain(error)
            if time.monotonic() > deadline:
                logger.error(
                    "No leader took this worker back within %s s; closing.",
                    give_up_s,
                    extra={"action": "gave_up"},
                )
                await self._worker.close(reason="worker-rejoin-timeout")
                return
            await backoff.pause(self.follower.news)

    def _complain(self, error: Exception) -> None:
        expected = isinstance(error, (OSError, TimeoutError, RegistrationRefused))
        if not expected:
            logger.error(
                "Could not rejoin because of a defect",
                exc_info=error,
                extra={"action": "rejoin_defect"},
            )
        elif time.monotonic() - self._complained > COMPLAIN_EVERY_S:
            self._complained = time.monotonic()
            scheduler = self._worker.scheduler
            logger.info("Looking for the leader of %s: %s", scheduler.address, why(error))

    async def _meet(self, other: AnotherCell) -> None:
        """Begin anew in another cell, if that is there and the worker's own is not.

        A nanny starts a fresh process. Without one the worker lets go of all that it holds, and
        joins when its running tasks are over: a task of that name may be another one there.
        """
        if await self.follower.meet(other.view) is not Meeting.ANOTHER:
            return
        worker, held = self._worker, list(self._worker.state.tasks)
        logger.warning(
            "The cell %s of this worker is not there any more: %s leads the cell %s on the same "
            "hosts, which was founded anew and knows nothing of the %d tasks here. %s",
            self.follower.cell_id,
            other.view.leader,
            other.view.cell_id,
            len(held),
            "The worker restarts." if worker.nanny else "The worker lets go of them.",
            extra={"action": "cell_replaced"},
        )
        if worker.nanny:
            await worker.close(nanny=False, executor_wait=False, reason="worker-of-another-cell")
            return
        worker.handle_stimulus(FreeKeysEvent(keys=held, stimulus_id=f"other-cell-{wall_time()}"))
        if not worker.state.tasks:
            self._own.forget_cell()
            self._events.clear()
            self.follower.forget_cell()

    async def _join_once(self) -> None:
        """Join, with no ``await`` between: a registration is never left unnoticed."""
        await self._established(await self._register())

    async def _register(self) -> Registered:
        """Afterwards the phase is BUFFERING, or DOWN if it failed."""
        worker = self._worker
        self._renewal.joining()
        async with asyncio.timeout(CONNECT_S_MAX + HANDSHAKE_S_MAX):
            comm = await connect(
                worker.scheduler.address, timeout=CONNECT_S_MAX, **worker.connection_args
            )
        comm.name = "Worker->Scheduler"
        comm._server = weakref.ref(worker)
        self._comm = comm
        try:
            self.follower.connected(worker.scheduler, comm)
            metrics, _ = await self.metrics()
            extra = await worker.get_startup_information()
            started = wall_time()
            await self._introduce(comm, metrics, extra)
            async with asyncio.timeout(REPLY_S_MAX):
                reply = await comm.read(deserializers=["msgpack"])
            follower = self.follower
            accepted = registration.understand(reply, follower.fence.term, follower.cell_id)
            if accepted.view is not None:
                check_leader(comm, name_of(accepted.view))
                if await follower.meet(accepted.view) not in (Meeting.OURS, Meeting.SUCCESSOR):
                    raise StaleLeader(f"no peer says that {accepted.view.leader} leads our cell")
            if comm is not self._comm:
                raise CommClosedError("another leader came meanwhile")
        except BaseException:
            comm.abort()
            if comm is self._comm:
                self._drop()
            raise
        worker._update_latency(wall_time() - started)
        worker.scheduler_delay = accepted.time - (started + wall_time()) / 2
        return accepted

    async def _introduce(self, comm: Any, metrics: dict[str, Any], extra: Any) -> None:
        worker = self._worker
        message = registration.upstream_message(worker, metrics, extra)
        if comm is not self._comm:
            raise CommClosedError("another leader came meanwhile")
        # No await from here until the write: what happens next goes to the new stream.
        worker.batched_stream = BatchedSend(interval="2ms", loop=worker.loop)
        self.phase = Phase.BUFFERING
        if not self.plain:
            message = registration.message(
                message,
                term=self.follower.fence.term,
                cell_id=self.follower.cell_id,
                report=report_of(
                    worker.state,
                    died=self._own.executing.before,
                    shuffles=shuffle_runs(worker),
                    heard=self._own.runs.heard,
                    fetched=self._own.runs.fetched(),
                ),
                plugins=self._own.plugin_digests,
            )
        await comm.write(message, serializers=["msgpack"])

    async def _established(self, accepted: Registered) -> None:
        worker, comm = self._worker, self._comm
        if accepted.warning:
            logger.warning(accepted.warning, extra={"action": "cell_warning"})
        if accepted.view is not None:
            self.follower.welcomed(comm, accepted.view)
            if accepted.ring is not None:
                self._own.callers.take(accepted.ring, by_daemon=False)
            else:
                self._own.callers.stand_alone()
            worker.execution_state["scheduler"] = worker.scheduler.address
        worker.batched_stream.start(OneByOneComm(comm, self._dropped))
        self.phase = Phase.UP
        if not comm.closed():
            worker.batched_stream.send(*self._events)
            self._events.clear()
        self._own.registered()
        await self._own.add_missing_plugins(accepted.plugins)
        term = self.follower.fence.joined
        logger.info("        Registered to: %26s, term %d", comm.peer_address, term)
        worker.loop.add_callback(worker.handle_scheduler, comm)
