"""The daemon's side of its engine.

Guarantee: ``EngineSettings`` is the first message of every engine's life, an engine that was not
activated gets nothing into the log, and the lease of an engine that is gone is never extended. A
message that no engine of this release sends, or that is not an engine's to send
(``engine_rights.py``), ends the engine, not the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ha_scheduler.ledger.records import EngineEnded, RecordRejected
from ha_scheduler.ledger.rejections import describe
from ha_scheduler.peer.engine import inquest
from ha_scheduler.peer.engine.engine_rights import EngineRights, OverstepError
from ha_scheduler.peer.engine.failing import Failing
from ha_scheduler.peer.engine.feed import CommittedTail, Feed
from ha_scheduler.peer.engine.inquest import End, How
from ha_scheduler.peer.engine.proposals import ProposalError, Proposals
from ha_scheduler.peer.engine.supervisor import Engine
from ha_scheduler.peer.members.roster import Roster
from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.protocol.engine import (
    Activate,
    CallerRefused,
    Confirm,
    Confirmed,
    EngineReady,
    EngineSettings,
    LeaderNamed,
    Mark,
    Propose,
    ScaleWanted,
    Serving,
    ToDaemon,
)
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.protocol.ring import Ring
from ha_scheduler.raft.messages import Entry
from ha_scheduler.storage.port import PeerStore

logger = logging.getLogger(__name__)


class EngineSideEvents(Protocol):
    """The life of the engine."""

    def on_engine_started(self) -> None: ...

    def on_engine_ready(self) -> None: ...

    def on_engine_exited(self, *, explained: bool) -> None: ...

    def on_engine_explained(self, record: EngineEnded | None) -> None: ...

    def on_serving(self, term: int, address: str) -> None: ...

    def on_mark(self, mark: Mark) -> None: ...

    def on_confirm(self, term: int, number: int) -> None:
        """The engine of ``term`` asks whether this peer leads."""

    def on_scale(self, message: ScaleWanted) -> None:
        """The engine says how many workers somebody should have."""

    def on_fatal(self, error: BaseException) -> None: ...


class EngineSide:
    """The present engine, if any."""

    def __init__(
        self,
        settings: PeerSettings,
        roster: Roster,
        store: PeerStore,
        tail: CommittedTail,
        events: EngineSideEvents,
    ) -> None:
        #: The Dask port is the engine's to answer (True), or the daemon's.
        self.on_port: Callable[[bool], None] = lambda engine: None
        self.on_refused: Callable[[CallerRefused], None] = lambda message: None
        self.dashboard = ""
        self.failing = Failing()
        self._settings = settings
        self._roster = roster
        self._store = store
        self._tail = tail
        self._events = events
        self._engine: Engine | None = None
        self._feed: Feed | None = None
        self._feeding: asyncio.Task[None] | None = None
        self._proposals: Proposals | None = None
        self._rights: EngineRights | None = None
        self._resolving: asyncio.Task[None] | None = None
        self._term = 0  # in which it was activated
        self._leader = LeaderNamed()
        self._ring: Ring | None = None

    @property
    def pid(self) -> int:
        """Its process id, or 0."""
        return self._engine.pid if self._engine is not None else 0

    @property
    def lag_s(self) -> float:
        """How far it is behind, in seconds; 0.0 without an engine."""
        return self._engine.lag_s if self._engine is not None else 0.0

    @property
    def replayed(self) -> int:
        """It has read the log up to this index, at least; 0 without an engine."""
        return self._engine.replayed if self._engine is not None else 0

    @property
    def fed(self) -> int | None:
        """It was sent everything up to this index; None without an engine."""
        return self._feed.cursor if self._feed is not None else None

    # -- commands

    def activate(
        self, term: int, index: int, format_: int, propose: Callable[[Sequence[bytes]], range]
    ) -> None:
        """Activate it for ``term``, after the log up to ``index`` was sent to it.

        ``format_``: of records, that it may write.
        """
        assert self._feed is not None
        assert self._rights is not None
        self._rights.activated(term)
        self._term = term
        self._proposals = Proposals(propose, term, asyncio.get_running_loop().call_soon)
        self.on_port(True)
        cell = self._roster.cell_id, self._roster.predecessor
        self._feed.send_after(index, Activate(term, *cell, format_))

    def extend(self, until: float) -> None:
        """Extend its lease (CLOCK_BOOTTIME); 0.0 revokes it."""
        if self._engine is not None and self._engine.alive:
            self._engine.lease.extend(until)

    def revoke(self) -> None:
        self.extend(0.0)

    def confirm(self, term: int, number: int) -> None:
        """A quorum has said that this peer leads in ``term``, since ``Confirm(number)`` came."""
        if self._engine is not None and self._rights is not None and term == self._term:
            self._rights.answered()
            self._engine.send(Confirmed(number))

    def name_leader(self, leader: LeaderNamed) -> None:
        """Tell it, and those that follow, who leads; nothing if it knows."""
        if leader == self._leader:
            return
        self._leader = leader
        if self._engine is not None and self._feed is not None:
            self._engine.send(leader)

    def kill(self, why: str) -> None:
        if self._engine is not None:
            self._engine.kill(why)

    def rejected(self, row: RecordRejected) -> None:
        """The fold rejected this record. Its author has acted on it, and the ledger does not."""
        if self._proposals is not None and self._proposals.term == row.term:
            self.kill(f"it proposed what cannot be applied, {describe(row)}")

    def tell_ring(self, ring: Ring) -> None:
        """Tell this engine, and each later one, whose tokens hold."""
        self._ring = ring
        if self._feed is not None and self._engine is not None:  # else ``on_accepted`` does
            self._engine.send(ring)

    def pump(self) -> None:
        """The core may take proposals again."""
        if self._proposals is not None:
            self._proposals.pump()

    # -- events of the supervisor (EngineEvents)

    def on_spawn(self, engine: Engine) -> None:
        self._engine, self._proposals, self._term = engine, None, 0
        self._events.on_engine_started()

    def on_accepted(self, engine: Engine) -> None:
        name, options = self._settings.name, dict(self._settings.engine_options)
        identity, peers = self._roster.founding.identity, self._roster.current()
        engine.send(EngineSettings(identity, name, peers, options), self._leader)
        if self._ring is not None:
            engine.send(self._ring)
        self._rights = self._rights_of(next(peer for peer in peers if peer.name == name))
        self._feed = Feed(engine, self._store, self._tail, self._number_of)
        self._feeding = asyncio.create_task(self._feed.run())
        self._feeding.add_done_callback(self._feed_ended)

    def on_message(self, engine: Engine, message: ToDaemon) -> None:
        assert self._rights is not None
        try:
            self._obey(engine, self._rights, message)
        except OverstepError as error:
            engine.kill(f"it {error}")

    def on_exit(self, engine: Engine, why: str) -> None:
        if engine.how is How.BY_DAEMON:
            logger.info("engine %d ended: %s", engine.pid, why, extra={"action": "engine_stopped"})
        else:
            logger.warning("engine %d ended: %s", engine.pid, why, extra={"action": "engine_ended"})
            self.failing.ended(engine.spawned_at, why)
        if self._feeding is not None:
            self._feeding.cancel()
        if self._proposals is not None:
            self._proposals.close()
        self._engine = self._feed = self._feeding = self._proposals = None
        self.on_port(False)
        self.dashboard = ""
        blamed = engine.how is not How.BY_DAEMON and bool(engine.exposures.clocks())
        self._events.on_engine_exited(explained=not blamed)

    def on_gone(self, engine: Engine, end: End) -> None:
        exposures = engine.exposures.read()
        record = inquest.finding(
            end,
            exposures,
            number=secrets.randbits(63),
            peer=self._settings.name,
            term=self._term,
            led=self._term > 0,
            at=int(time.time()),
        )
        if record is not None:
            logger.error(
                "engine %d ended of %s while it read or ran %s",
                engine.pid,
                record.cause,
                "; ".join(f"{a.kind} {a.what} of {a.client or 'the cell'}" for a in record.open),
                extra={"action": "engine_blames_client"},
            )
        self._events.on_engine_explained(record)

    # -- records in and out

    def _obey(self, engine: Engine, rights: EngineRights, message: ToDaemon) -> None:
        match message:
            case EngineReady(dashboard):
                rights.check_ready(message)
                self.dashboard = dashboard
                self._events.on_engine_ready()
            case Propose(number, data):
                self._propose(engine, number, data)
            case Serving(term, address):
                rights.check_serving(message)
                self._events.on_serving(term, address)
            case Confirm(number):
                rights.check_confirm(message)
                self._events.on_confirm(self._term, number)
            case CallerRefused():
                self.on_refused(message)
            case ScaleWanted():
                rights.check_scale(message)
                self._events.on_scale(message)
            case Mark():
                if (mark := rights.check_mark(message, time.monotonic())) is not None:
                    self._events.on_mark(mark)

    def _propose(self, engine: Engine, number: int, data: bytes) -> None:
        if self._proposals is None:
            raise OverstepError("proposed a record though it was not activated")
        try:
            self._proposals.offer(number, data)
        except ProposalError as error:
            engine.kill(str(error))
            return
        if self._proposals.congested and not engine.paused:
            engine.pause()

    def _number_of(self, entry: Entry) -> int:
        if self._proposals is None:
            return 0
        number = self._proposals.report(entry)
        engine = self._engine
        if engine is not None and engine.paused and self._proposals.relieved:
            engine.resume()
        return number

    def _rights_of(self, own: PeerAddress) -> EngineRights:
        rights = EngineRights("tls" if self._settings.tls is not None else "tcp", own)

        async def resolve() -> None:  # a resolver may take seconds
            with contextlib.suppress(OSError):
                loop = asyncio.get_running_loop()
                found = await loop.getaddrinfo(own.host, None, type=socket.SOCK_STREAM)
                rights.resolved = {str(address[0]) for *_, address in found}

        if self._resolving is not None:
            self._resolving.cancel()
        self._resolving = asyncio.create_task(resolve())
        return rights

    def _feed_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._events.on_fatal(error)  # the store could not be read
