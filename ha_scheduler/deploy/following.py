"""Cluster objects (``distributed.deploy``) of a cell, through failovers.

Guarantee: ``scheduler_info`` is the present leader's, a moment after a takeover; a worker that went
while nobody led is reported as removed, so that lost workers are replaced and ``observed`` under
``Adaptive`` is right. An interrupted call is retried on the next leader where that is idempotent
(``client_replay/calls/rpc.py``), so ``Adaptive`` waits through an outage and then decides by what
the new leader knows.

Upstream's object asks one address, and its subscription ends with the first leader
(cluster.py:226). A frozen or unreachable leader ends nothing, so the watch says when to leave it.

A forked child of the program gets ``ForkedChild`` for whatever it asks, and ends nothing.

Everything but the properties runs on the cluster's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import uuid
import warnings
from typing import Any

from distributed.comm import CommClosedError, connect
from distributed.core import ConnectionPool, Status
from distributed.objects import SchedulerInfo
from distributed.utils import NoOpAwaitable

from client_replay.calls.rpc import SchedulerRPC
from ha_scheduler import forks
from ha_scheduler.backoff import Backoff
from ha_scheduler.comm import address as addresses
from ha_scheduler.comm.dashboard_link import dashboard_link
from ha_scheduler.comm.directory import View
from ha_scheduler.comm.follower import Follower
from ha_scheduler.protocol.client import HA, Welcome
from ha_scheduler.protocol.codec import from_op

BACKOFF_S_MAX = 0.2  # between two attempts to subscribe with a new leader

_OVER = (Status.closing, Status.closed, Status.failed)


class LeaderConnection(SchedulerRPC):
    """``scheduler_comm`` of a cluster: upstream's ``rpc``, to the current leader."""

    @classmethod
    def to(cls, address: str, connection_args: dict[str, Any]) -> LeaderConnection:
        """A connection to the cell at ``address``; nothing is sent yet."""
        pool = ConnectionPool(connection_args=connection_args)
        return cls.around(pool(address), uuid.uuid4().hex)

    async def _comm(self, op: str, deadline: float) -> Any:
        if self.pool.status == Status.init:
            await self.pool
        return await super()._comm(op, deadline)

    async def live_comm(self) -> Any:
        """A connection of the caller's own. Raises ``OSError`` if there is no leader for long."""
        return await connect(self.addr, **self.pool.connection_args)

    async def close_rpc(self) -> None:
        """Close; calls that wait for a leader fail."""
        await self.pool.close()


class FollowsLeader:
    """A mixin before a class of ``distributed.deploy`` whose scheduler is at ``ha://``::

    class MyCluster(FollowsLeader, SpecCluster): ...
    """

    # Of the class that this is mixed into
    status: Status
    asynchronous: bool
    scheduler_info: dict[str, Any]
    _watch_worker_status_comm: Any
    _watch_worker_status_task: asyncio.Task[None] | None

    _connection: LeaderConnection | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._owner = forks.Owner()
        super().__init__(*args, **kwargs)
        forks.watch(self)

    # -- a fork of the program

    @property
    def is_ours(self) -> bool:
        """Whether this process made it, and not one that forked this."""
        return self._owner.is_here()

    @property
    def loop(self) -> Any:
        """As upstream's. Raises ``ForkedChild``: the thread of the loop is not in a fork."""
        self._owner.require(f"the cluster {self.name}")  # type: ignore[attr-defined]
        return super().loop  # type: ignore[misc]

    def let_go(self) -> None:
        """This is a fork of the program."""
        forks.let_go_of_loop(self._loop_runner._loop)  # type: ignore[attr-defined]

    def close(self, timeout: float | None = None) -> Any:
        """As upstream's; does nothing in a fork."""
        if self.is_ours:
            return super().close(timeout)  # type: ignore[misc]
        return NoOpAwaitable() if self._loop_runner._asynchronous else None  # type: ignore[attr-defined]

    async def __aexit__(self, *exception: Any) -> None:
        await self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if "_owner" in self.__dict__ and self.is_ours:  # else it was refused its arguments
            super().__del__(_warn)  # type: ignore[misc]

    @functools.cached_property
    def _follower(self) -> Follower:
        return Follower(self._leave)

    @property
    def scheduler_comm(self) -> LeaderConnection | None:
        """Calls to the current leader; the setter takes any ``rpc`` to the same address."""
        return self._connection

    @scheduler_comm.setter
    def scheduler_comm(self, made: Any) -> None:
        if made is not None and not isinstance(made, LeaderConnection):
            made = LeaderConnection.to(made.address, made.connection_args)
        self._connection = made

    @property
    def dashboard_link(self) -> str:
        """The dashboard of the last known leader."""
        port = self.scheduler_info.get("services", {}).get("dashboard")
        if port is None or not self.scheduler_info.get("address"):
            return ""
        return dashboard_link(self.scheduler_info["address"], port)

    def get_client(self) -> Any:
        """A ``client_replay.Client`` of this cluster: the current one if there is one."""
        from client_replay import Client

        with contextlib.suppress(ValueError):
            current = Client.current()
            usable = current is not None and current.status not in ("closing", "closed")
            if usable and current.cluster is self:
                return current
        return Client(self, asynchronous=self.asynchronous)

    # -- the subscription to workers

    async def _watch_worker_status(self, comm: Any) -> None:
        """As upstream's, repeated with each next leader."""
        self._follower.connected(self._connection, comm)
        self._heard(self.scheduler_info, comm)
        while True:
            await super()._watch_worker_status(comm)  # type: ignore[misc]
            if self.status in _OVER:
                return
            comm = await self._resubscribe()

    async def _resubscribe(self) -> Any:
        backoff = Backoff(max_s=BACKOFF_S_MAX)
        while True:
            try:
                return await self._follower.attempt(self._subscribe())
            except OSError:  # a timeout is one: another leader has come
                await backoff.pause(self._follower.news)

    async def _subscribe(self) -> Any:
        assert self._connection is not None
        comm = await self._connection.live_comm()
        comm.name = "Cluster worker status"
        self._watch_worker_status_comm = comm
        self._follower.connected(self._connection, comm)
        try:
            await comm.write({"op": "subscribe_worker_status"})
            info = SchedulerInfo(await comm.read())
            self._heard(info, comm)
        except BaseException:
            comm.abort()
            raise
        self._replace_info(info)
        return comm

    def _replace_info(self, info: SchedulerInfo) -> None:
        """Replace the info by a new leader's, with the removals in between."""
        for address in self.scheduler_info["workers"].keys() - info["workers"].keys():
            self._update_worker_status("remove", address)
        self.scheduler_info = info

    def _update_worker_status(self, op: str, msg: Any) -> None:
        """As upstream's, but idempotent for removals."""
        if op != "remove" or msg in self.scheduler_info["workers"]:
            super()._update_worker_status(op, msg)  # type: ignore[misc]

    # -- leaders

    def _heard(self, info: dict[str, Any], comm: Any) -> None:
        assert self._connection is not None
        if HA not in info or not addresses.is_ha(self._connection.addr):
            return  # one scheduler, which nobody will follow
        if not self._follower.welcomed(comm, View.from_welcome(from_op(Welcome, info[HA]))):
            raise CommClosedError(f"{comm.peer_address} does not lead any more")

    def _leave(self, reason: str) -> None:
        if self._watch_worker_status_comm is not None:
            self._watch_worker_status_comm.abort()

    # -- the end

    async def _close(self) -> None:
        if self.status != Status.closed:
            await self._end_watch()
        await super()._close()  # type: ignore[misc]

    async def _end_watch(self) -> None:
        task, self._watch_worker_status_task = self._watch_worker_status_task, None
        if task is not None:
            # Upstream closes the connection to end it, but it may be connecting to another.
            task.cancel()
            await asyncio.wait([task])
        await self._follower.stop()
