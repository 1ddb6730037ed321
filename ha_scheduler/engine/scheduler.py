"""The Dask scheduler of an engine: follows by replaying records, leads by recording them.

Guarantee: one object goes through both roles, in this order and never back: constructed (it
replays), activated (it leads), ended with its process.

Order of an activation: the term is set, and run ids start above those of earlier terms (hazard 6);
the recorder opens; the port is bound; the recovery barrier waits for the ledger's workers, which
are called at once; their reports are adopted, then errors and scattered data settled; only then is
anything but a registration answered (``recovery.py``).

The mixins hold one concern each; this module joins them. The class keeps upstream's name because
configuration keys are derived from it (core.py:275, hazard 20).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import Sequence
from time import monotonic
from typing import Any

import dask
import msgspec
from distributed.comm import Comm
from distributed.core import Status
from distributed.http.utils import get_handlers
from distributed.scheduler import DEFAULT_EXTENSIONS, TaskState
from msgspec.structs import replace
from tornado.ioloop import PeriodicCallback

from ha_scheduler.comm import http
from ha_scheduler.comm.calling import CALLER
from ha_scheduler.comm.preamble import CHECK_SERVER, INTRODUCTION
from ha_scheduler.comm.roles import check_worker, identity_of
from ha_scheduler.engine import gc_pauses, http_gate, sitemap, worker_pages
from ha_scheduler.engine.clients.rights import Rights
from ha_scheduler.engine.clients.sessions import SessionCalls
from ha_scheduler.engine.confirmations import READS, confirmed, wait
from ha_scheduler.engine.coordination import EXTENSIONS, OPERATIONS
from ha_scheduler.engine.coordination.metadata import Metadata
from ha_scheduler.engine.coordination.restrictions import Restrictions
from ha_scheduler.engine.coordination.task_metadata import TaskMetadata
from ha_scheduler.engine.coordination.topics import Logs, Topics
from ha_scheduler.engine.extensions.memory_manager import MemoryManager
from ha_scheduler.engine.extensions.memory_samples import MemorySamplers
from ha_scheduler.engine.extensions.plugins import SchedulerPlugins
from ha_scheduler.engine.extensions.shuffles import Shuffles
from ha_scheduler.engine.extensions.spans import Spans
from ha_scheduler.engine.extensions.statistics import Statistics
from ha_scheduler.engine.extensions.task_streams import TaskStreams
from ha_scheduler.engine.extensions.worker_plugins import WorkerPlugins
from ha_scheduler.engine.fencing import fence_pool, hold
from ha_scheduler.engine.requests import Requests, exposed, unknown_request
from ha_scheduler.engine.scaling.goals import Scaling
from ha_scheduler.engine.stream.recorder import Log, Recorder
from ha_scheduler.engine.stream.state import OnMark
from ha_scheduler.engine.takeover.actors import Actors
from ha_scheduler.engine.takeover.recovery import WINDOW_SECONDS
from ha_scheduler.engine.workers import expiry
from ha_scheduler.engine.workers.operations import OPERATIONS as WORKER_OPERATIONS
from ha_scheduler.engine.workers.registration import Workers
from ha_scheduler.engine.workers.status_subscribers import StatusSubscribers
from ha_scheduler.ledger.records import FORMAT
from ha_scheduler.protocol.client import HA, FireAndForget, Heard, Hello, OpenCalls, Resume
from ha_scheduler.protocol.codec import tag_of, to_op
from ha_scheduler.protocol.introduction import Kind, introduce
from ha_scheduler.protocol.ring import Ring
from ha_scheduler.protocol.worker import RegisterWorker
from ha_scheduler.security.key_ring import KeyRing

logger = logging.getLogger(__name__)

#: The calls that ``NumberedCalls`` is around: each is done once if its caller numbers it.
CALLS = (
    OPERATIONS
    | WORKER_OPERATIONS
    | {
        *("register_scheduler_plugin", "unregister_scheduler_plugin"),
        *("unregister_worker_plugin", "unregister_nanny_plugin", "retry"),
        *("memory_sampler_start", "memory_sampler_stop"),
    }
)


class Scheduler(
    Actors,
    Workers,
    StatusSubscribers,
    SessionCalls,
    Rights,
    SchedulerPlugins,
    WorkerPlugins,
    MemoryManager,
    Metadata,
    Restrictions,
    TaskMetadata,
    TaskStreams,
    Scaling,
    Logs,
):
    """A scheduler whose state survives it.

    Parts that change the same method of upstream's do so in the order of their inheritance;
    ``tests/engine/test_parts.py`` has the list, with the reason for each order.
    """

    serves_a_cell = True  # callers have certificates with roles
    format = FORMAT  # of records, that all members of the cell read
    inherited: Sequence[socket.socket] = ()  # listen at its port already
    known_leader = "", ""  # name and dashboard, for who looks at a follower

    def __init__(
        self,
        *,
        extensions: dict[str, Any] | None = None,
        http_prefix: str | None = "/",
        **kwargs: Any,
    ) -> None:
        self._keep_state = True  # until upstream's ``start_unsafe`` is over
        super().__init__(extensions=_extensions(extensions), http_prefix=http_prefix, **kwargs)
        self._serve_http(http_prefix or "")
        self.connection_args[INTRODUCTION] = introduce(Kind.ENGINE)
        self.connection_args[CHECK_SERVER] = check_worker  # all that a scheduler calls
        fence_pool(self.rpc, self.lease)
        self.statistics = Statistics(self)
        look = PeriodicCallback(lambda: expiry.check(self), expiry.CHECK_EVERY_S * 1000)
        self.periodic_callbacks["ha-tokens"] = look
        self._add_handlers()

    def start_http_server(
        self, routes: Any, dashboard_address: Any, default_port: int = 0, ssl_options: Any = None
    ) -> None:
        http.serve(self, routes, dashboard_address, default_port)

    def _serve_http(self, prefix: str) -> None:
        """What a leader alone answers, behind the guard, which is asked first."""
        modules = ["distributed.http.scheduler.api", "ha_scheduler.engine.scaling.page"]
        handlers = get_handlers(self, modules, prefix)
        self.http_application.add_handlers(".*$", [*handlers, worker_pages.route(self, prefix)])
        sitemap.install(self.http_application)
        leads, leader = self._answers_for_all, lambda: self.known_leader
        http_gate.install(self.http_application, prefix, leads, self.cell.leader, leader)
        http.close_to_strangers(self, prefix)

    def _answers_for_all(self) -> bool:
        return self.recovery.is_open and self.lease.valid()

    def _add_handlers(self) -> None:
        self._broker = Topics(dask.config.get("distributed.admin.low-level-log-length"), self)
        self.handlers["log_event"] = self.log_asked
        self.handlers["identity"] = self.identity_asked
        self.handlers["retry"] = self.retry_asked
        self.handlers["update_data"] = self.update_data_asked
        if "amm_handler" in self.handlers:
            self.handlers["amm_handler"] = self.amm_asked
        self.handlers[tag_of(RegisterWorker)] = self.ha_register_worker
        self.handlers[tag_of(OpenCalls)] = self.calls.open
        self.handlers.update(self.session_calls())
        self.handlers.update(self.scaling_handlers())
        for op in CALLS & set(self.handlers):
            handler = exposed(op, self.handlers[op], self.exposures)
            self.handlers[op] = self.calls.around(op, handler)
        for op in READS & set(self.handlers):
            self.handlers[op] = confirmed(self.handlers[op], self._confirm)
        # Also what is added from here on, by plugins and by libraries.
        self.handlers = Requests(
            self.handlers,
            self.recovery,
            self.lease,
            self._unknown,
            self._comms.get,
            self.check_caller,
            self.exposures,
        )
        self.stream_handlers[tag_of(Hello)] = self.ha_hello
        self.stream_handlers[tag_of(Resume)] = self.ha_resume
        self.stream_handlers[tag_of(Heard)] = self.ha_heard
        self.stream_handlers[tag_of(FireAndForget)] = self.ha_fire_and_forget

    async def _confirm(self) -> None:
        """A quorum says that this peer leads, after this is called."""
        assert self.recorder is not None
        await wait(self.recorder.confirm)

    async def _handle_comm(self, comm: Comm) -> None:
        CALLER.set(identity_of(comm))  # the task is this connection's
        await super()._handle_comm(comm)

    def _unknown(self, comm: Comm, **arguments: Any) -> dict[str, Any]:
        return unknown_request(self._comms.get(comm))

    # Activation

    async def activate(
        self, term: int, log: Log, on_mark: OnMark, window_seconds: float = WINDOW_SECONDS
    ) -> None:
        """Lead in ``term``: bind the port and recover. Returns when clients may connect."""
        self.prepare_to_lead(term, log, on_mark)
        self._address = self.contact_address  # None: where the port is bound (core.py:599)
        await self
        await self.start_plugins()
        self.recover(window_seconds)

    def prepare_to_lead(self, term: int, log: Log, on_mark: OnMark) -> None:
        """Before the port is bound."""
        gc_pauses.spare_present()
        self.term = term
        # Workers refuse what an engine orders that another has succeeded (``worker/orders.py``).
        self.connection_args[INTRODUCTION] = introduce(Kind.ENGINE, term=term)
        self.mark = on_mark
        TaskState._run_id_iterator = ids = itertools.count((term << 32) + 1)
        self._last_time = min(self._last_time, time.time())
        for ts in self.unrunnable:
            self.unrunnable[ts] = monotonic()  # else ``no-workers-timeout`` counts the replay
        self.recorder = Recorder(log, term, ids, self.format)
        self.runs.lead(term)
        self.tables.lead()

    def recover(self, window_seconds: float = WINDOW_SECONDS) -> None:
        """The port is bound: wait for the workers of the ledger."""
        self.idle_since = time.time()
        # One that was to go while it joined may have a departure, and no row of its own yet.
        leaving = (address for address, *_ in self.retirements.values())
        expected = list(dict.fromkeys((*self.inherited_workers, *leaving)))
        self.await_clients()
        self.recovery.begin(expected, window_seconds)
        self._call = asyncio.create_task(self.call_workers(expected, self.address))

    async def start_unsafe(self) -> Any:
        """As upstream's, which would clear what was replayed (hazard 18)."""
        result = await super().start_unsafe()
        self._keep_state = False
        return result

    def _clear_task_state(self) -> None:
        """As upstream's, for ``start_unsafe`` and ``restart``; the latter is recorded."""
        if self._keep_state:
            return
        self.transactions.note(*self.tables.void())
        super()._clear_task_state()
        self.pending_releases.forget()
        self.end_of_everything()

    def open_recovery(self) -> None:
        """Every report that comes in time has come: place everything, then work."""
        reported = [a for a in self._reports if a in self.workers]
        missing = sorted(self.recovery.awaited)
        self.expect_silent()
        self.adopt_reports(reported, self._settle)
        assert self.recorder is not None
        self.replay.retire_unknown(self.recorder)
        self._refresh_no_workers_since()
        if missing:
            logger.warning(
                "Recovered without %d workers that did not report: %s.",
                len(missing),
                ", ".join(missing),
                extra={"action": "workers_missing"},
            )
            self.expect_late(missing)
        self.mark("workers_back", {"reported": len(reported), "missing": len(missing)})
        self._expect_first_finished()
        if not self._awaited_clients:
            self.mark("clients_back", {"clients": 0})

    def _settle(self, stimulus_id: str) -> None:
        """What the ledger knows and no worker could report."""
        self.adoption.adopt_recorded(self.replay.errors, stimulus_id)
        self.replay.errors.clear()
        self.settle_actors(stimulus_id)
        self.settle_scattered(stimulus_id)
        self.withhold()
        self.calls.restore()
        self.tables.settle()

    def _expect_first_finished(self) -> None:
        handle = self.stream_handlers["task-finished"]

        def first(**msg: Any) -> None:
            self.stream_handlers["task-finished"] = handle
            handle(**msg)
            gc_pauses.spare_nothing()
            self.mark("first_task", {})

        self.stream_handlers["task-finished"] = first

    def is_rootish(self, ts: Any) -> bool:
        """As upstream's, but for actors: without workers every task looks rootish, and an actor
        must not be queued (``_transition_queued_processing``, scheduler.py:2933).
        """
        return not ts.actor and bool(super().is_rootish(ts))

    # What others learn of us

    @property
    def key_ring(self) -> KeyRing | None:
        """By which tokens are judged; None: the engine stands alone, or is in plaintext."""
        return self.callers.ring

    def take_ring(self, ring: Ring) -> None:
        """The daemon says whose tokens hold; workers are told when they join."""
        self.callers.take(ring)
        self.part_with_revoked()
        self.cell = replace(self.cell, ring=msgspec.msgpack.encode(ring))

    def identity(self, n_workers: int = -1) -> dict[str, Any]:
        welcome = to_op(self.welcome())
        del welcome["ring"]  # of bytes, and scheduler files are JSON; who registers gets it
        return {**super().identity(n_workers), HA: welcome}

    async def identity_asked(self, n_workers: int = -1) -> dict[str, Any]:
        """Who leads, at once; the workers once the barrier is open."""
        if n_workers:
            await self.recovery.opened()
            await hold(self.lease)
        return self.identity(n_workers)

    async def close(self, timeout: float | None = None, reason: str = "unknown") -> None:
        """``Client.shutdown``: the workers close, the cell stays (hazard of a graceful close).

        Upstream's scheduler ends with its workers; ours only an operator ends.
        """
        if self.status in (Status.closing, Status.closed):
            return
        logger.info("Closing all workers: %s.", reason, extra={"action": "close_workers"})
        for worker in list(self.workers):
            self.close_worker(worker)


def _extensions(chosen: dict[str, Any] | None) -> dict[str, Any]:
    """Upstream's extensions (scheduler.py:4239), with ours in place of some."""
    if chosen is None:
        chosen = dict(DEFAULT_EXTENSIONS)
        if not dask.config.get("distributed.scheduler.work-stealing"):
            chosen.pop("stealing", None)
    ours = {"spans": Spans, "shuffle": Shuffles, "memory_sampler": MemorySamplers}
    return chosen | ours | EXTENSIONS
