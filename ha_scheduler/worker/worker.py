"""The Worker that follows the leader: ``distributed.Worker`` with another link to the scheduler.

Guarantee: all but that link is upstream's. Data, running tasks, threads and the worker's address
outlive any number of leaders: the loss of a leader never leads to ``close`` (``worker/link.py``).

``upgrade`` makes an unregistered worker of any class follow too: ours comes before
``distributed.Worker`` in its order of bases. ``Worker`` derives from ``distributed.Worker`` instead
of being a mix-in, because Python exchanges an object's class only between compatible layouts. The
name stays "Worker", which distributed uses in paths, ids and configuration keys.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import weakref
from collections.abc import Mapping
from typing import Any, cast

import dask
import distributed
from dask.utils import parse_timedelta
from distributed.comm import Comm
from distributed.core import Status
from distributed.metrics import time
from distributed.utils import in_async_call
from distributed.worker import WORKER_ANY_RUNNING, fail_hard
from tornado.ioloop import PeriodicCallback

from client_replay.calls.rpc import SchedulerRPC, reconnect_timeout_s
from client_replay.upstream import locks
from ha_scheduler import forks
from ha_scheduler.comm import address as addresses
from ha_scheduler.comm.callers import Callers
from ha_scheduler.comm.calling import CALLER
from ha_scheduler.comm.permitted import PermittedHandlers
from ha_scheduler.comm.preamble import CHECK_SERVER, INTRODUCTION
from ha_scheduler.comm.roles import check_member, identity_of
from ha_scheduler.comm.security import renew
from ha_scheduler.protocol.codec import from_op, tag_of
from ha_scheduler.protocol.introduction import Kind, introduce
from ha_scheduler.protocol.worker import LeaderCalled, RunNamed
from ha_scheduler.security.identity import ANYBODY_LOCAL
from ha_scheduler.security.key_ring import KeyRing
from ha_scheduler.security.permissions import Surface
from ha_scheduler.worker.executing import Executing, executing_here
from ha_scheduler.worker.lifetime import hand_over, leave_signal_to_nanny, tell_lifetime
from ha_scheduler.worker.link import Phase, SchedulerLink
from ha_scheduler.worker.orders import PresentLeaders
from ha_scheduler.worker.renewal import LOOK_EVERY_S
from ha_scheduler.worker.runs import RunTracker
from ha_scheduler.worker.submitters import Submitters

logger = logging.getLogger("distributed.worker.ha")

HEARTBEAT_S_MAX = 10.0


class Worker(distributed.Worker):
    """A ``distributed.Worker`` that follows the leader of a cell."""

    _ha: SchedulerLink | None = None  # None while upstream's __init__ runs
    runs: RunTracker
    submitters: Submitters
    callers: Callers
    executing: Executing
    plugin_digests: dict[str, str]  # also of those that could not be set up

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._setup_following()

    def _setup_following(self) -> None:
        """Rebind what upstream's ``__init__`` bound to its own methods."""
        self.callers = Callers(self, self._ask_rings)
        self._ha = SchedulerLink(self, self)
        self.runs = RunTracker()
        self.executing = executing_here()
        self.submitters = Submitters(self)
        self.plugin_digests = {}
        self._set_up_plugins: dict[str, str] = {}
        self._adding_plugin = weakref.WeakValueDictionary[str, asyncio.Lock]()
        locks.install()
        forks.watch(self)
        self.connection_args[INTRODUCTION] = introduce(Kind.WORKER)
        self.connection_args[CHECK_SERVER] = self._check_server
        renew(self.connection_args, self.security, "worker")
        self.scheduler = SchedulerRPC.around(self.scheduler, self.id)
        self.handlers[tag_of(LeaderCalled)] = self._ha.leader_called
        self.handlers["terminate"] = self.close
        self.handlers["plugin-add"] = self.plugin_add
        self.handlers["plugin-remove"] = self.plugin_remove
        self.handlers = PermittedHandlers(self.handlers, Surface.WORKER, self._comms.get)
        self.stream_handlers["close"] = self.close
        self.stream_handlers[tag_of(RunNamed)] = self.run_named
        self.periodic_callbacks["heartbeat"].callback = self.heartbeat
        look = PeriodicCallback(self._ha.look_at_token, LOOK_EVERY_S * 1000)
        self.periodic_callbacks["ha-token"] = look
        tell_lifetime(self)
        if self.nanny:
            leave_signal_to_nanny()

    def _check_server(self, comm: Any) -> None:
        if self.serves_a_cell:
            check_member(comm)

    @property
    def serves_a_cell(self) -> bool:
        """Whether callers have certificates with roles."""
        return addresses.is_ha(self.scheduler.addr)

    @property
    def key_ring(self) -> KeyRing | None:
        """By which tokens are judged; None: of no cell, in plaintext, or not joined yet."""
        return self.callers.ring

    async def _ask_rings(self) -> None:
        await self.link.follower.ask_rings()

    def let_go(self) -> None:
        """This is a fork of the worker's process, as a task may make one."""
        forks.let_go_of_loop(self.io_loop)
        if self._workdir is not None:
            self._workdir._finalizer.detach()  # removes the directory

    @property
    def link(self) -> SchedulerLink:
        """The link to the leader, once ``__init__`` is over."""
        assert self._ha is not None
        return self._ha

    # ---- the overrides of distributed.Worker

    async def _register_with_scheduler(self) -> None:
        for name in ("keep-alive", "heartbeat"):
            self.periodic_callbacks[name].stop()
        if self.contact_address is None:
            self.contact_address = self.address
        logger.info("-" * 49)
        await self.link.join()
        logger.info("-" * 49)
        for name in ("keep-alive", "heartbeat"):
            self.periodic_callbacks[name].start()

    @fail_hard  # type: ignore[untyped-decorator, unused-ignore]
    async def handle_scheduler(self, comm: Any) -> None:
        await self.link.follow(comm)

    def handle_stimulus(self, *stims: Any) -> None:
        for stim in stims:
            self.runs.watch(self.state, stim)
        super().handle_stimulus(*stims)

    async def execute(self, key: Any, *, stimulus_id: str) -> Any:
        with self.executing.run(key, self.state.tasks[key].run_id):
            return await super().execute(key, stimulus_id=stimulus_id)

    def batched_send(self, msg: dict[str, Any]) -> None:
        if self._ha is not None:
            self._ha.send(msg)

    async def heartbeat(self) -> None:
        link = self.link
        if link.phase is not Phase.UP:
            return
        stream = self.batched_stream
        try:
            async with asyncio.timeout(HEARTBEAT_S_MAX):
                await self._beat(link, stream)
        except (OSError, TimeoutError) as error:
            logger.debug("A heartbeat was not answered: %s", error)
        except Exception:
            # Upstream closes here. What one leader makes of a heartbeat is no reason to lose data.
            logger.exception(
                "Unexpected exception during heartbeat", extra={"action": "heartbeat_failed"}
            )

    async def _beat(self, link: SchedulerLink, stream: Any) -> None:
        metrics, extensions = await link.metrics()
        start = time()
        tasks = self.state.tasks
        response = await self.scheduler.heartbeat_worker(
            address=self.contact_address,
            now=start,
            metrics=metrics,
            executing={
                k: start - (tasks[k].start_time or start) for k in self.active_keys if k in tasks
            },
            extensions=extensions,
        )
        end = time()
        self._update_latency(end - start)
        if self.batched_stream is not stream:
            return  # the answer of a leader that has been left meanwhile
        if response["status"] == "missing":
            link.abandon("it does not know this worker")
            return
        self.scheduler_delay = response["time"] - (start + end) / 2
        self.periodic_callbacks["heartbeat"].callback_time = response["heartbeat-interval"] * 1000
        self.bandwidth_workers.clear()
        self.bandwidth_types.clear()

    async def _handle_comm(self, comm: Any) -> None:
        CALLER.set(identity_of(comm) if self.serves_a_cell else ANYBODY_LOCAL)
        link = self._ha
        seen = (lambda: 0) if link is None else (lambda: link.follower.fence.term)
        await super()._handle_comm(cast("Comm", PresentLeaders(comm, seen)))

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        if self.status in WORKER_ANY_RUNNING and not self.nanny:  # else that has done it
            await hand_over(self.scheduler, self.address, kwargs.get("reason", ""))
        self.executing.clear()
        if self._ha is not None:
            await self._ha.stop()
            await self.submitters.close()
        return await super().close(*args, **kwargs)

    async def plugin_add(
        self, plugin: Any, name: str | None = None, catch_errors: bool = True
    ) -> Any:
        """As upstream's, idempotent.

        A repeated registration, or a new leader, may ask for a plugin while it is still being set
        up: such a call waits for the first one's outcome. A failed plugin is tried again, to report
        the error.
        """
        digest = hashlib.sha256(plugin).hexdigest() if isinstance(plugin, bytes) else None
        if name is None or digest is None:
            return await super().plugin_add(plugin=plugin, name=name, catch_errors=catch_errors)
        async with self._adding_plugin.setdefault(name, asyncio.Lock()):
            if self._set_up_plugins.get(name) == digest:
                return {"status": "OK"}
            result = await super().plugin_add(plugin=plugin, name=name, catch_errors=catch_errors)
            if name in self.plugins:  # else it was removed meanwhile
                self.plugin_digests[name] = digest
                if result["status"] == "OK":
                    self._set_up_plugins[name] = digest
            return result

    async def plugin_remove(self, name: str) -> Any:
        self.plugin_digests.pop(name, None)
        self._set_up_plugins.pop(name, None)
        return await super().plugin_remove(name=name)

    def _get_client(self, timeout: float | None = None) -> Any:
        """worker.py:2450, which would make a Client that loses its futures with the leader."""
        if timeout is None:
            timeout = dask.config.get("distributed.comm.timeouts.connect")
        timeout = parse_timedelta(timeout)
        client = self.submitters.client(lambda: self._make_client(timeout))
        if client is None:
            if not self._client:
                self._client = self._suitable_default_client() or self._make_client(timeout)
            client = self._client
        self.log_event("worker-get-client", {"client": client.id, "timeout": timeout})
        return client

    def _suitable_default_client(self) -> Any:
        """A client of this process that already talks to our scheduler."""
        try:
            client = distributed.default_client()
        except ValueError:
            return None
        ours = self.scheduler.address
        started = getattr(client._start_arg, "scheduler_address", client._start_arg)
        return client if client.scheduler and ours in (client.scheduler.address, started) else None

    def _make_client(self, timeout: float) -> Any:
        from client_replay import Client

        asynchronous = in_async_call(self.loop)
        # The default is meant for a scheduler that may not exist. Ours does, or will again, and a
        # task must not fail because it asked for a client during an outage.
        default = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
        if timeout == default and self.link.follower.fence.term:
            timeout = reconnect_timeout_s()
        client = Client(
            self.scheduler,
            loop=self.loop,
            security=self.security,
            set_as_default=True,
            asynchronous=asynchronous,
            direct_to_workers=True,
            name="worker",
            timeout=timeout,
        )
        type(self)._initialized_clients.add(client)
        return client

    def run_named(self, **fields: Any) -> None:
        self.runs.hear(from_op(RunNamed, fields).run)

    # ---- what the link asks of the worker

    def registered(self) -> None:
        """A leader took the worker; the first one makes it a running one."""
        if self.status not in WORKER_ANY_RUNNING:
            self.status = Status.running

    def forget_cell(self) -> None:
        self.runs = RunTracker()

    async def add_missing_plugins(self, plugins: Mapping[str, bytes]) -> None:
        """Install the missing ones. Adding one again would tear it down first (worker.py:1771)."""
        missing = {
            name: plugin
            for name, plugin in plugins.items()
            if self.plugin_digests.get(name) != hashlib.sha256(plugin).hexdigest()
        }
        await asyncio.gather(
            *(self.plugin_add(name=name, plugin=plugin) for name, plugin in missing.items())
        )


_upgraded: dict[type, type] = {distributed.Worker: Worker}


def upgraded_class(kind: type) -> type:
    """The class like ``kind`` that follows the leader."""
    if issubclass(kind, Worker):
        return kind
    if kind not in _upgraded:
        _upgraded[kind] = type(kind.__name__, (Worker, kind), {"__module__": kind.__module__})
    return _upgraded[kind]


def upgrade(worker: Any) -> None:
    """Make ``worker``, which has not registered yet, follow the leader."""
    if isinstance(worker, Worker):
        return
    worker.__class__ = upgraded_class(type(worker))
    worker._setup_following()
