"""The follower of a cell's leaders: the fence, and when a connection is dropped.

Guarantees, and the order that keeps them:

- A leader of an older term than the highest seen (the fence) is never followed. The fence rises
  before anything is left, so that later connections know it.
- A connection is left for a newer leader, and never while it is with the newest: neither after that
  leader has said its term, nor before, if it is at the address of the newest view. A leader that
  has taken us in and loses us takes us for dead.
- A view counts against a connection only if it came after that was begun: a later connection may be
  with a leader of whom no view has told yet.
- A connection to a leader still unknown may be with the new one, unless it was begun ``STUCK_S``
  before. It is given that time, and looked at once more then: no later view may come.
- Calls over the pool are freed of the former leader once for each news; later ones are with the new
  leader.
- Views are heard from the first connection to an ``ha://`` address on: its leader may fall silent
  before it has said who it is.

One ``Follower`` serves one client, worker or cluster, on its event loop. ``Fence`` decides: pure,
without clock, sockets or loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tornado.ioloop import IOLoop

from ha_scheduler.comm import address as addresses
from ha_scheduler.comm.address import Endpoint
from ha_scheduler.comm.directory import Directory, View, directory_of
from ha_scheduler.comm.pool import drop_pooled
from ha_scheduler.comm.watch import Watch

STUCK_S = 0.5  # an older attempt is with the former leader

T = TypeVar("T")


class Fence:
    """The highest term seen, and its consequence for one connection."""

    def __init__(self) -> None:
        self.term = 0  # the highest seen
        self.joined = 0  # that of the last leader that welcomed us
        self._peer: str | None = None  # the address of the connection; None until it is made
        self._welcomed = False  # by a leader of term ``joined``
        self._told: View | None = None  # the newest view since the connection was begun
        self._newest: tuple[int, Endpoint | None] | None = None

    def begin(self) -> None:
        """A new connection attempt."""
        self._peer, self._welcomed, self._told = None, False, None

    def connected(self, peer_address: str) -> None:
        """The connection is made; its welcome has not come yet."""
        self._peer, self._welcomed = peer_address, False

    def welcomed(self, term: int) -> bool:
        """The leader of the connection has ``term``. Returns whether it may be followed."""
        if term < self.term:
            return False
        self.term = self.joined = term
        self._welcomed = True
        return True

    def hear(self, view: View) -> bool:
        """A view. Returns whether it is new, and calls may wait for a former leader."""
        if view.term < self.term:
            return False
        newest, self._newest = self._newest, (view.term, view.leader_address)
        self.term, self._told = view.term, view
        if not self.joined and self.superseded() is None:
            return False  # there was no leader before
        return view.term > self.joined and newest != self._newest

    @property
    def is_connected(self) -> bool:
        """Whether the connection is made."""
        return self._peer is not None

    def superseded(self) -> str | None:
        """The reason to drop the connection, if any."""
        told = self._told
        if told is None or told.term <= self.joined or self._peer is None:
            return None
        where = told.leader_address
        if not self._welcomed and where in (None, addresses.parse_endpoint(self._peer)):
            return None  # it is this one, or may be
        return f"{told.leader} leads term {told.term}"


class Follower:
    """Calls ``leave`` with a reason when the connection is no longer with the newest leader."""

    def __init__(self, leave: Callable[[str], None]) -> None:
        self.fence = Fence()
        self.directory: Directory | None = None  # None until it is known
        self.news = asyncio.Event()  # ends a backoff
        self._leave = leave
        self._scheduler: Any = None
        self._unsubscribe: Callable[[], None] | None = None
        self._watch: Watch | None = None
        self._attempt: asyncio.Future[Any] | None = None
        self._began = 0.0
        self._stopped = False

    async def attempt(self, connecting: Coroutine[Any, Any, T]) -> T:
        """Await ``connecting``. Raises ``TimeoutError`` if it was to a former leader."""
        self.news.clear()
        self.fence.begin()
        self._began = asyncio.get_running_loop().time()
        self._attempt = attempt = asyncio.ensure_future(connecting)
        try:
            return await attempt
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise TimeoutError("another leader came meanwhile") from None
        finally:
            attempt.cancel()
            if self._attempt is attempt:
                self._attempt = None

    def connected(self, scheduler: Any, comm: Any) -> None:
        """The connection is made; it may have to be left at once.

        ``scheduler``: the ``PooledRPCCall`` to whoever leads.
        """
        self._scheduler = scheduler
        self.fence.connected(comm.peer_address)
        if addresses.is_ha(scheduler.addr):
            self._enter()
        self._leave_if_superseded()

    def _enter(self) -> Directory:
        if self.directory is None:
            self.directory = directory_of(addresses.parse(self._scheduler.addr))
            loop = IOLoop.current()
            self._unsubscribe = self.directory.subscribe(
                lambda view: loop.add_callback(self.hear, view)
            )
        return self.directory

    def welcomed(self, comm: Any, view: View, watch: bool = True) -> bool:
        """The welcome of the connection's leader. Returns whether it may be followed.

        A plain address becomes that of a cell, itself included (a VIP), unless the leader names no
        address: then the engine stands alone.
        """
        if not self.fence.welcomed(view.term):
            return False
        if self._stopped:  # it may have been closed before it was welcomed
            return True
        scheduler, endpoint = self._scheduler, addresses.parse_endpoint(comm.peer_address)
        if view.addresses and not addresses.is_ha(scheduler.addr):
            listed = (*view.addresses, addresses.parse_endpoint(scheduler.addr))
            scheduler.addr = addresses.unparse(dict.fromkeys(listed))
        directory = self._enter()
        directory.connected(endpoint)
        directory.observe(dataclasses.replace(view, leader_address=endpoint))
        if watch:
            if self._watch is None:
                self._watch = Watch(directory, scheduler.pool.connection_args.get("ssl_context"))
            self._watch.start()
        return True

    def called(self, term: int, leader: str, address: str) -> None:
        """A leader has called this process."""
        known = self.directory.view if self.directory else None
        endpoint = addresses.parse_endpoint(address)
        view = View(known.cell if known else "", term, leader, endpoint)
        if self.directory is not None:
            self.directory.observe(view)
        self.hear(view)

    def hear(self, view: View) -> None:
        """A view: drop connections to former leaders."""
        if self._stopped:
            return
        if self.fence.hear(view):
            if self._scheduler is not None:
                reason = f"{view.leader} leads term {view.term}"
                drop_pooled(self._scheduler.pool, self._scheduler.addr, reason)
            if self._attempt is not None:
                loop = asyncio.get_running_loop()
                loop.call_at(self._began + STUCK_S, self._end_stuck, self._attempt)
        self._leave_if_superseded()
        self.news.set()

    def _end_stuck(self, attempt: asyncio.Future[Any]) -> None:
        if self._attempt is attempt and not self.fence.is_connected:
            attempt.cancel()

    def _leave_if_superseded(self) -> None:
        reason = self.fence.superseded()
        if reason is not None:
            self.fence.begin()
            self._leave(reason)

    async def stop(self) -> None:
        """End the watch and any attempt; a connection stays open for the goodbye."""
        self._stopped = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        self.news.set()
        if self._attempt is not None:
            self._attempt.cancel()
        if self._watch is not None:
            await self._watch.stop()
