"""The Nanny that starts workers which follow the leader, and needs none itself.

Guarantee: a dead worker process is restarted, leader or not; the Nanny ends only with its worker's
consent. It has no standing connection, so only three moments matter: its start, the death of the
worker, and the last message of its registration, which a lost leader does not hear.

A plugin that it has is not installed again when the registration is repeated: one that restarts the
worker would do so twice. Calls to add plugins are handled one by one, so a repeated one waits for
the outcome of the first.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed
from distributed.comm import CommClosedError
from distributed.core import Status

from ha_scheduler import forks
from ha_scheduler.comm import address as addresses
from ha_scheduler.comm.callers import Callers
from ha_scheduler.comm.calling import CALLER
from ha_scheduler.comm.permitted import PermittedHandlers
from ha_scheduler.comm.preamble import CHECK_SERVER, INTRODUCTION
from ha_scheduler.comm.roles import check_member, identity_of
from ha_scheduler.comm.security import renew
from ha_scheduler.protocol.client import HA, Welcome
from ha_scheduler.protocol.codec import from_op
from ha_scheduler.protocol.introduction import Kind, introduce
from ha_scheduler.protocol.ring import RINGS
from ha_scheduler.security.identity import ANYBODY_LOCAL
from ha_scheduler.security.permissions import Surface
from ha_scheduler.worker import executing
from ha_scheduler.worker.lifetime import hand_over
from ha_scheduler.worker.worker import Worker

logger = logging.getLogger("distributed.nanny.ha")

PRELOAD = "ha_scheduler.worker.preload"
STARTING = (Status.init, Status.starting)
RING_S = 1.0  # a ring that is older is asked for again, before somebody is let in
UNREGISTER_S_MAX = 2.0  # a courtesy: the leader finds out by itself, and the worker is waiting


class RegistrationComm:
    """The comm of a Nanny's registration, whose last message may have no receiver.

    The leader may be lost while the worker starts. The worker finds the next one; the Nanny's lost
    "ok" must not end both (nanny.py:365).
    """

    def __init__(self, comm: Any) -> None:
        self._comm = comm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    async def write(self, message: Any, **kwargs: Any) -> Any:
        try:
            return await self._comm.write(message, **kwargs)
        except CommClosedError:
            if "status" not in message:
                raise
            logger.info("The leader was lost while the worker started")
            return 0


class Nanny(distributed.Nanny):
    """A ``distributed.Nanny`` for workers of a cell."""

    preload: Any
    preload_argv: Any

    plugin_digests: dict[str, str]

    def __init__(self, *args: Any, worker_class: type | None = None, **kwargs: Any) -> None:
        kwargs["worker_class"] = worker_class or Worker
        super().__init__(*args, **kwargs)
        self._setup_following()

    def _setup_following(self) -> None:
        self.connection_args[INTRODUCTION] = introduce(Kind.WORKER)
        self.connection_args[CHECK_SERVER] = self._check_server
        renew(self.connection_args, self.security, "worker")
        self.callers = Callers(self, self._ask_ring, RING_S)
        self.rpc.connect = self._registering(self.rpc.connect)  # type: ignore[method-assign]
        self.plugin_digests = {}
        self._adding_plugin = asyncio.Lock()
        forks.watch(self)
        self._executing = self._share_executing()
        self.handlers["plugin_add"] = self.plugin_add
        self.handlers["plugin_remove"] = self.plugin_remove
        self.handlers = PermittedHandlers(self.handlers, Surface.NANNY, self._comms.get)
        # The class goes to the worker process by name, so only one that has a name can go. A
        # subclass of the user's is upgraded there.
        if self.Worker is distributed.Worker:
            self.Worker = Worker
        elif not issubclass(self.Worker, Worker):
            self._preload_ours()

    def _preload_ours(self) -> None:
        """Have the worker process load what upgrades its worker, after what it loads anyway."""
        given: list[str] | str = self.preload or []
        names = [given] if isinstance(given, str) else list(given)
        if PRELOAD in names:
            return
        arguments = list(self.preload_argv or [])
        if arguments and not isinstance(arguments[0], str):  # those of each preload
            self.preload_argv = [*arguments, []]
        self.preload = [*names, PRELOAD]

    def _share_executing(self) -> Path | None:
        """A file by which each worker learns what the one before it died under."""
        try:
            path = executing.make_file(self.local_directory)
        except OSError as error:
            logger.warning(
                "If a worker dies, the next one will not know what it ran: %s",
                error,
                extra={"action": "exposures_missing"},
            )
            return None
        self.env = {**self.env, executing.ENVIRONMENT: str(path)}
        return path

    def _check_server(self, comm: Any) -> None:
        if self.serves_a_cell:
            check_member(comm)

    @property
    def serves_a_cell(self) -> bool:
        """Whether callers have certificates with roles."""
        return addresses.is_ha(self.scheduler.addr)

    async def _handle_comm(self, comm: Any) -> None:
        CALLER.set(identity_of(comm) if self.serves_a_cell else ANYBODY_LOCAL)
        await super()._handle_comm(comm)

    async def _ask_ring(self) -> None:
        """Of the leader: nothing tells a nanny of changes."""
        try:
            said = await self.scheduler.identity(n_workers=0)
        except (OSError, TimeoutError) as error:
            logger.info("No leader said whose tokens hold: %s", error)
            return
        ring = from_op(Welcome, said[HA]).ring if HA in said else b""
        if ring:
            self.callers.take(RINGS.decode(ring))
        else:
            self.callers.stand_alone()

    def let_go(self) -> None:
        """This is a fork of the nanny's process."""
        forks.let_go_of_loop(self.io_loop)

    def _registering(self, connect: Callable[..., Any]) -> Callable[..., Any]:
        """``connect`` for the registration, the Nanny's first connection (nanny.py:341).

        On the pool and not in ``start_unsafe``, which a plain Nanny is in when it is upgraded.
        """

        async def connect_to_register(address: str, timeout: float | None = None) -> Any:
            comm = await connect(address, timeout)
            self.callers.look()
            if address != self.scheduler.addr or self.status not in STARTING:
                return comm
            self.rpc.connect = connect  # type: ignore[method-assign]
            return RegistrationComm(comm)

        return connect_to_register

    async def close(  # type: ignore[override]
        self, timeout: float = 5, reason: str = "nanny-close"
    ) -> Any:
        """As upstream's; at SIGTERM the worker's results are moved first."""
        if self.status is Status.running and self.worker_address:
            await hand_over(self.scheduler, self.worker_address, reason)
        try:
            return await super().close(timeout=timeout, reason=reason)
        finally:
            if self._executing is not None:
                self._executing.unlink(missing_ok=True)

    async def plugin_add(self, plugin: Any, name: str | None = None) -> Any:
        digest = hashlib.sha256(plugin).hexdigest() if isinstance(plugin, bytes) else None
        if name is None or digest is None:
            return await super().plugin_add(plugin=plugin, name=name)
        async with self._adding_plugin:
            if self.plugin_digests.get(name) == digest:
                return {"status": "OK"}
            result = await super().plugin_add(plugin=plugin, name=name)
            if result["status"] == "OK":
                self.plugin_digests[name] = digest
            return result

    async def plugin_remove(self, name: str) -> Any:
        self.plugin_digests.pop(name, None)
        return await super().plugin_remove(name=name)

    async def _unregister(self, timeout: float = UNREGISTER_S_MAX) -> None:
        try:
            async with asyncio.timeout(timeout):
                await super()._unregister(timeout)
        except (OSError, TimeoutError) as error:
            logger.info("No leader heard that the worker is gone: %s", error)


def upgrade(nanny: Any) -> None:
    """Make ``nanny``, whose worker has not started yet, one for workers of a cell."""
    if isinstance(nanny, Nanny):
        return
    kind = type(nanny)
    nanny.__class__ = Nanny if kind is distributed.Nanny else type(kind.__name__, (Nanny, kind), {})
    nanny._setup_following()
