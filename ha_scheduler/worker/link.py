"""The link of a worker to whoever leads: join, notice the loss, join again.

Guarantees, and the order that keeps them:

- Nothing is told twice and nothing is lost. What was unsent when a stream broke is dropped, since
  the snapshot of the next registration says it; from the snapshot on, without an ``await`` between,
  everything is buffered for the new stream and sent when that starts.
- Events that are logged while nobody leads are said on the next stream. Those that were under way
  when the leader died are lost: no snapshot has them.
- A leader of an older term than the highest seen is not obeyed: its stream is aborted and the rest
  of a batch already read is not handled.
- The worker does not end because a leader did. It ends on a "close" from the leader, or when no
  leader took it for ``ha-scheduler.worker.rejoin-timeout``.

Everything here runs on the worker's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
import time
import weakref
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed.batched import BatchedSend
from distributed.comm import CommClosedError, connect
from distributed.core import iscoroutinefunction
from distributed.metrics import time as wall_time
from distributed.worker import WORKER_ANY_RUNNING

from ha_scheduler.comm import address as addresses
from ha_scheduler.comm.directory import Cell, View, cell_of
from ha_scheduler.comm.pool import drop_pooled
from ha_scheduler.comm.watch import Watch
from ha_scheduler.worker import registration
from ha_scheduler.worker.registration import Accepted, PlainScheduler, Refused
from ha_scheduler.worker.report import shuffle_runs, snapshot

logger = logging.getLogger("distributed.worker.ha")

REJOIN_TIMEOUT = "ha-scheduler.worker.rejoin-timeout"
REJOIN_TIMEOUT_DEFAULT = "1h"
CONNECT_S_MAX = 5.0
REPLY_S_MAX = 60.0  # the leader may first have to adopt many other workers
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.02, 1.0
COMPLAIN_EVERY_S = 10.0
EVENTS_MAX = 1_000  # logged while nobody leads; a topic keeps no more (``low-level-log-length``)
LOG_EVENT = "log-event"


class Phase(Enum):
    """What becomes of a message for the scheduler."""

    DOWN = auto()  # dropped: the next snapshot says it
    BUFFERING = auto()  # kept: the snapshot is taken, the stream does not run yet
    UP = auto()  # sent


def _nothing() -> None:
    """There is no subscription yet."""


class SchedulerLink:
    """One worker's link. ``worker`` is a ``ha_scheduler.worker.worker.Worker``."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self.phase = Phase.DOWN
        self.term = 0  # the highest seen: the fence
        self.stream_term = 0
        self.plain = False  # the scheduler is not one of a cell
        self._comm: Any = None
        self._cell: Cell | None = None
        self._unsubscribe: Callable[[], None] = _nothing
        self._watch: Watch | None = None
        self._rejoining: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._metrics_lock = asyncio.Lock()
        self._complained = 0.0
        self._told: View | None = None  # since the registration that is under way began
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)

    # ---- what the worker asks for

    async def join(self) -> None:
        """Register for the first time. Waits for a leader; raises ``ValueError`` if refused."""
        while True:
            try:
                accepted = await self._register()
                break
            except PlainScheduler:
                self.plain = True
            except Refused as refused:
                logger.error("Unable to connect to scheduler: %s", refused)
                raise ValueError(f"Unexpected response from register: {refused}") from refused
            except (OSError, TimeoutError) as error:
                logger.info("Waiting to connect to: %26s", self._worker.scheduler.address)
                logger.debug("because %s", error)
                await self._pause(0.1)
        await self._established(accepted)

    def send(self, message: dict[str, Any]) -> None:
        """Tell the leader something, in the way of the phase."""
        stream = self._worker.batched_stream
        if message["op"] == LOG_EVENT and self.phase is not Phase.UP:
            self._events.append(message)
        elif self.phase is Phase.BUFFERING or (self.phase is Phase.UP and not stream.comm.closed()):
            stream.send(message)

    async def metrics(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The metrics and what the extensions have to say, always taken together.

        Metrics without the extensions make the next ones fail for ever (spans.py:662).
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
        """Leave the current leader, if any, and join the leader."""
        logger.info("Leaving the scheduler of term %d: %s", self.stream_term, reason)
        self._drop()
        self._rejoin()

    async def stop(self) -> None:
        """Rejoin no more; the stream, if there is one, stays for the goodbye."""
        self._unsubscribe()
        task, self._rejoining = self._rejoining, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._watch is not None:
            await self._watch.stop()

    # ---- what comes from the cell

    def leader_called(self, term: int, address: str, leader: str) -> dict[str, Any]:
        """A leader presents itself: the RPC ``ha-leader``."""
        if term < self.term:
            return {"status": "stale", "term": self.term}
        cell = self._cell
        known = cell.view if cell else None
        view = View(known.cell if known else "", term, leader, addresses.parse_endpoint(address))
        if cell is not None:
            cell.observe(view)
        self._on_view(view)
        return {"status": "OK"}

    def _on_view(self, view: View) -> None:
        if view.term < self.term or self.plain:
            return
        self.term, self._told = view.term, view
        if view.term > self.stream_term and self._worker.status in WORKER_ANY_RUNNING:
            scheduler = self._worker.scheduler
            drop_pooled(scheduler.pool, scheduler.addr, f"{view.leader} leads term {view.term}")
            if self.phase is Phase.UP or self._joins_another_than(view):
                self.abandon(f"{view.leader} leads term {view.term}")
        self._wake.set()

    def _joins_another_than(self, view: View) -> bool:
        """Whether a registration is under way, and not with the leader of ``view``.

        The one under way may well be with the new leader, of which we hear in two ways at once. It
        is left alone then: a leader that has taken us in and loses us takes us for dead.
        """
        if self._comm is None or self.phase is Phase.UP or view.leader_address is None:
            return False
        return bool(view.leader_address != addresses.parse_endpoint(self._comm.peer_address))

    # ---- the stream

    async def follow(self, comm: Any) -> None:
        """Handle what the leader sends until the stream ends, then see to it that there is one."""
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
        """core.py:861 ``Server.handle_stream``, which asks before each message who leads."""
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
                handler = handlers.get(op)
                if handler is None:
                    logger.error("The scheduler asks for %r, which this worker does not know", op)
                elif iscoroutinefunction(handler):
                    await handler(**message)
                else:
                    handler(**message)
            await asyncio.sleep(0)

    def _drop(self) -> None:
        comm, self._comm = self._comm, None
        self.phase = Phase.DOWN
        if comm is not None:
            comm.abort()

    # ---- joining

    def _rejoin(self) -> None:
        if self._rejoining is None or self._rejoining.done():
            self._rejoining = asyncio.ensure_future(self._rejoin_until_taken())
        self._wake.set()

    async def _rejoin_until_taken(self) -> None:
        give_up_s = parse_timedelta(dask.config.get(REJOIN_TIMEOUT, REJOIN_TIMEOUT_DEFAULT), "s")
        deadline = time.monotonic() + give_up_s
        backoff = BACKOFF_S_MIN
        while self._worker.status in WORKER_ANY_RUNNING:
            self._wake.clear()
            try:
                accepted = await self._register()
                await self._established(accepted)
                if self.phase is Phase.UP:
                    return  # else it was left again while its plugins were installed
            except Exception as error:
                self._complain(error)
            if time.monotonic() > deadline:
                logger.error("No leader took this worker back within %s s; closing.", give_up_s)
                await self._worker.close(reason="worker-rejoin-timeout")
                return
            await self._pause(backoff)
            backoff = min(BACKOFF_S_MAX, backoff * 2)

    def _complain(self, error: Exception) -> None:
        expected = isinstance(error, (OSError, TimeoutError, Refused))
        if not expected:
            logger.error("Could not rejoin because of a defect", exc_info=error)
        elif time.monotonic() - self._complained > COMPLAIN_EVERY_S:
            self._complained = time.monotonic()
            logger.info("Looking for the leader of %s: %s", self._worker.scheduler.address, error)

    async def _pause(self, seconds: float) -> None:
        """Wait, or until there is news."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(seconds / 2, seconds)):
                await self._wake.wait()

    async def _register(self) -> Accepted:
        """One attempt. Afterwards the phase is BUFFERING, or DOWN if it failed."""
        worker, self._told = self._worker, None
        async with asyncio.timeout(CONNECT_S_MAX):
            comm = await connect(
                worker.scheduler.address, timeout=CONNECT_S_MAX, **worker.connection_args
            )
        comm.name = "Worker->Scheduler"
        comm._server = weakref.ref(worker)
        self._comm = comm
        try:
            if self._told is not None and self._joins_another_than(self._told):
                raise CommClosedError("another leader came meanwhile")
            metrics, _ = await self.metrics()
            extra = await worker.get_startup_information()
            started = wall_time()
            await self._introduce(comm, metrics, extra)
            async with asyncio.timeout(REPLY_S_MAX):
                reply = await comm.read(deserializers=["msgpack"])
            accepted = registration.understand(reply, self.term)
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
                term=self.term,
                report={
                    **snapshot(worker.state),
                    "shuffles": shuffle_runs(worker),
                    "heard": worker.runs.heard,
                    "fetched": worker.runs.fetched(),
                },
                plugins=worker.plugin_digests,
            )
        await comm.write(message, serializers=["msgpack"])

    async def _established(self, accepted: Accepted) -> None:
        """The leader took the worker: start the stream, then whatever else goes with it."""
        worker, comm = self._worker, self._comm
        if accepted.warning:
            logger.warning(accepted.warning)
        if accepted.view is not None:
            self._enter(accepted.view, comm)
        worker.batched_stream.start(comm)
        self.phase = Phase.UP
        if not comm.closed():
            worker.batched_stream.send(*self._events)
            self._events.clear()
        worker.registered()
        await worker.add_missing_plugins(accepted.plugins)
        logger.info("        Registered to: %26s, term %d", comm.peer_address, self.stream_term)
        worker.loop.add_callback(worker.handle_scheduler, comm)

    def _enter(self, view: View, comm: Any) -> None:
        """Learn about the cell from its leader, and watch it from now on."""
        self.term = self.stream_term = view.term
        endpoint = addresses.parse_endpoint(comm.peer_address)
        view = dataclasses.replace(view, leader_address=endpoint)
        if self._cell is None:
            self._cell = self._find_cell(view)
            self._unsubscribe = self._cell.subscribe(
                lambda seen: self._worker.loop.add_callback(self._on_view, seen)
            )
            self._watch = Watch(self._cell, self._worker.connection_args.get("ssl_context"))
        self._cell.connected(endpoint)
        self._cell.observe(view)
        if self._watch is not None:
            self._watch.start()

    def _find_cell(self, view: View) -> Cell:
        """The cell of an ``ha://`` address; a plain address becomes one, for everybody.

        It stays as it is if the leader names no address: then it is an engine that stands alone.
        """
        worker = self._worker
        known = worker.scheduler.address
        if view.addresses and not addresses.is_ha(known):
            listed = (*view.addresses, addresses.parse_endpoint(known))
            worker.scheduler.addr = addresses.unparse(dict.fromkeys(listed))
            worker.execution_state["scheduler"] = worker.scheduler.address
        return cell_of(addresses.parse(worker.scheduler.address))
