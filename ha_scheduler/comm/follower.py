"""The follower of a cell's leaders: the fence, and when a connection is dropped.

Guarantees, and the order that keeps them:

- A leader of an older term than the highest seen (the fence) is never followed. The fence rises
  before anything is left, so that later connections know it.
- Only what a daemon has said raises the fence. A leader that no daemon has confirmed yet is
  followed, since most often it is the first to tell; and left after ``UNCONFIRMED_S`` if the
  watched daemon knows nothing of it. Where no daemon can be reached, its word has to do.
- Terms are compared within one cell, by its id. Of another cell on the same addresses the fence
  begins anew, once a daemon says that it is there and none that the former one is (``meet``).
- A connection is left for a newer leader, and never while it is with the newest: neither after that
  leader has said its term, nor before, if it is at the address of the newest view. A leader that
  has taken us in and loses us takes us for dead.
- A view counts against a connection only if it came after that was begun: a later connection may be
  with a leader of whom no view has told yet.
- A connection to a leader still unknown may be with the new one, unless it was begun ``STUCK_S``
  before. It is given that time, and looked at once more then: no later view may come.
- Calls over the pool are freed of the former leader once for each news; later ones are with the new
  leader. So are those to its address that may have begun before its news came: they are spared.
- Views are heard from the first connection to an ``ha://`` address on: its leader may fall silent
  before it has said who it is.

One ``Follower`` serves one client, worker or cluster, on its event loop. ``Fence`` decides: pure,
without clock, sockets or loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any, TypeVar

from tornado.ioloop import IOLoop

from ha_scheduler.comm import address as addresses
from ha_scheduler.comm.address import Endpoint
from ha_scheduler.comm.directory import Directory, View, directory_of
from ha_scheduler.comm.pool import drop_pooled
from ha_scheduler.comm.watch import Watch, ask, ask_rings
from ha_scheduler.protocol.ring import Ring

STUCK_S = 0.5  # an older attempt is with the former leader
UNCONFIRMED_S = 5.0  # a daemon that is there knows the leader of its cell sooner
ASK_EVERY_S = 0.25

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
        self.spared: Endpoint | None = None  # connections there are with the newest leader

    def begin(self) -> None:
        """A new connection attempt."""
        self._peer, self._welcomed, self._told = None, False, None

    def connected(self, peer_address: str) -> None:
        """The connection is made; its welcome has not come yet."""
        self._peer, self._welcomed = peer_address, False

    def welcomed(self, term: int, *, believed: bool = True) -> bool:
        """The leader of the connection has ``term``. Returns whether it may be followed.

        ``believed``: a daemon says so too.
        """
        if term < self.term:
            return False
        self.joined = term
        if believed:
            self.term = term
        self._welcomed = True
        if self._peer is not None and (self._newest is None or self._newest[0] < term):
            self._newest = (term, addresses.parse_endpoint(self._peer))
        return True

    def hear(self, view: View) -> bool:
        """A view. Returns whether it is new, and calls may wait for a former leader."""
        if view.term < self.term:
            return False
        newest, self._newest = self._newest, (view.term, view.leader_address)
        self.spared = view.leader_address if self._led_from_elsewhere(newest, view) else None
        self.term, self._told = view.term, view
        if not self.joined and self.superseded() is None:
            return False  # there was no leader before
        return view.term > self.joined and newest != self._newest

    @staticmethod
    def _led_from_elsewhere(newest: tuple[int, Endpoint | None] | None, view: View) -> bool:
        """Whether what is connected to this leader's address cannot be with an earlier one there.

        With the news before, everything was dropped that was connected.
        """
        if newest is None:
            return False
        term, address = newest
        return term == view.term or address not in (None, view.leader_address)

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


class Meeting(Enum):
    """Of which cell a leader is."""

    OURS = auto()
    SUCCESSOR = auto()  # founded from the ledger of ours: what we hold is known there
    ANOTHER = auto()  # and ours is not there any more
    DOUBTFUL = auto()  # no daemon says so, or one of ours is there


class Follower:
    """Calls ``leave`` with a reason when the connection is no longer with the newest leader."""

    def __init__(
        self, leave: Callable[[str], None], on_ring: Callable[[Ring], None] = lambda ring: None
    ) -> None:
        """``on_ring``: is told by daemons whose tokens hold."""
        self._on_ring = on_ring
        self.fence = Fence()
        self.directory: Directory | None = None  # None until it is known
        self.cell_id = ""  # of the cell whose leaders have taken us in
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
        if view.cell_id and view.cell_id != self.cell_id:
            self._change_cell(view.cell_id, comm)
        believed = self._believes(view)
        if not self.fence.welcomed(view.term, believed=believed):
            return False
        if self._stopped:  # it may have been closed before it was welcomed
            return True
        scheduler, endpoint = self._scheduler, addresses.parse_endpoint(comm.peer_address)
        if view.addresses and not addresses.is_ha(scheduler.addr):
            listed = (*view.addresses, addresses.parse_endpoint(scheduler.addr))
            scheduler.addr = addresses.unparse(dict.fromkeys(listed))
        directory = self._enter()
        directory.enter(view.cell_id)
        directory.connected(endpoint)
        directory.observe(dataclasses.replace(view, leader_address=endpoint))
        if watch:
            if self._watch is None:
                self._watch = Watch(directory, self.ssl_context, self._on_ring)
            self._watch.start()
        if not believed:
            loop = asyncio.get_running_loop()
            loop.call_later(UNCONFIRMED_S, self._leave_unconfirmed, comm, view)
        return True

    def _change_cell(self, cell_id: str, comm: Any) -> None:
        if self.cell_id:
            self.fence = Fence()
            self.fence.connected(comm.peer_address)
        self.cell_id = cell_id

    def _believes(self, view: View) -> bool:
        if self.directory is None:
            return view.by_daemon or not view.peers
        return self.directory.believes(view)

    def _leave_unconfirmed(self, comm: Any, view: View) -> None:
        heard = self._watch is not None and self._watch.watched is not None
        doubted = self.fence.joined == view.term > self.fence.term
        if heard and doubted and not self._stopped and not comm.closed():
            self._leave(f"no peer of the cell says that {view.leader} leads term {view.term}")

    @property
    def ssl_context(self) -> Any:
        return self._scheduler.pool.connection_args.get("ssl_context")

    async def meet(self, view: View) -> Meeting:
        """Of which cell the leader is that has sent this welcome."""
        if not (view.cell_id and self.cell_id) or view.cell_id == self.cell_id:
            return Meeting.OURS
        directory = self._enter() if addresses.is_ha(self._scheduler.addr) else self.directory
        known = directory.peers if directory is not None else ()
        peers = {(peer.name, peer.host, peer.peer_port): peer for peer in (*known, *view.peers)}
        said = await ask(directory or Directory(()), peers.values(), self.ssl_context)
        there = {answer.cell_id: answer for answer in said}
        if self.cell_id in there or view.cell_id not in there:
            return Meeting.DOUBTFUL
        successor = there[view.cell_id].predecessor == self.cell_id
        return Meeting.SUCCESSOR if successor else Meeting.ANOTHER

    async def ask_rings(self) -> None:
        """Ask all daemons that are known whose tokens hold."""
        if self.directory is not None:
            for ring in await ask_rings(self.directory.peers, self.ssl_context):
                self._on_ring(ring)

    def called(self, term: int, leader: str, address: str) -> None:
        """A leader has called this process, and a daemon says that it leads."""
        known = self.directory.view if self.directory else None
        endpoint = addresses.parse_endpoint(address)
        view = View(known.cell if known else "", term, leader, endpoint, cell_id=self.cell_id)
        if self.directory is not None:
            self.directory.observe(view)
        self.hear(view)

    def look_at(self, address: str) -> None:
        """A leader of another cell has called: it may be the successor of ours."""
        if self.directory is not None:
            self.directory.learn([addresses.parse_endpoint(address)])
        self.news.set()

    def forget_cell(self) -> None:
        """Our cell is not there any more, and nothing of it is left here."""
        self.cell_id, self.fence = "", Fence()

    async def confirms(self, term: int) -> bool:
        """Whether a daemon of our cell says that the term is ``term`` or later.

        At once, if one has: mostly the watch tells of a leader before that calls. Otherwise all are
        asked, for ``UNCONFIRMED_S``. Without TLS an engine that names no peers is believed.
        """
        directory = self.directory
        if directory is None or not directory.peers:
            return self._scheduler is not None and self.ssl_context is None
        claim = View("", term, None, None, cell_id=self.cell_id, by_daemon=False)
        deadline = asyncio.get_running_loop().time() + UNCONFIRMED_S
        while not directory.believes(claim):
            if self._stopped or asyncio.get_running_loop().time() > deadline:
                return False
            await ask(directory, directory.peers, self.ssl_context)
            if not directory.believes(claim):
                await asyncio.sleep(ASK_EVERY_S)
        return True

    def hear(self, view: View) -> None:
        """A view: drop connections to former leaders."""
        if self._stopped or (view.cell_id and self.cell_id and view.cell_id != self.cell_id):
            return
        if self.fence.hear(view):
            if self._scheduler is not None:
                reason = f"{view.leader} leads term {view.term}"
                pool, address = self._scheduler.pool, self._scheduler.addr
                drop_pooled(pool, address, reason, spared=self.fence.spared)
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
