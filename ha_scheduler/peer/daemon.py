"""The process of one peer: the order of its start, and its end.

Guarantee: nothing changes on disk and nothing starts before the peer port is bound and the store is
open and known to be this peer's; until then errors propagate to the caller. After that ``run``
returns an exit status: 0 when asked to stop, 1 when this peer must not go on (its disk failed, its
log is damaged, a defect). Either way the engine is dead before ``run`` returns.

SIGTERM and SIGINT: a leader hands over first, so a planned stop costs the cell one transfer and no
election; then the process ends. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ha_scheduler.audit.log import AuditLog
from ha_scheduler.confinement.plan import Plan
from ha_scheduler.errors import EXIT_FAILED, OperatorError
from ha_scheduler.gate.binding import bind
from ha_scheduler.gate.nofile import raise_limit
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer import derived, reloading
from ha_scheduler.peer.consensus.driver import Driver
from ha_scheduler.peer.consensus.lease import LeaderLease
from ha_scheduler.peer.consensus.snapshots import SnapshotReceiver, SnapshotSender
from ha_scheduler.peer.engine import dask_port
from ha_scheduler.peer.engine.dask_port import DaskPort
from ha_scheduler.peer.engine.isolation import environment, isolate
from ha_scheduler.peer.engine.supervisor import Supervisor
from ha_scheduler.peer.identity.certificates import Certificates
from ha_scheduler.peer.identity.enrolment import Enrolment
from ha_scheduler.peer.identity.issuing import Issuer
from ha_scheduler.peer.identity.local_tokens import LOOK_EVERY_S, LocalTokens
from ha_scheduler.peer.identity.site_command import SiteCommand
from ha_scheduler.peer.members import opening
from ha_scheduler.peer.members.comparing import compare
from ha_scheduler.peer.members.joining import Asker, Joiner
from ha_scheduler.peer.members.releases import distributed_release, misfit
from ha_scheduler.peer.members.roster import Roster, named
from ha_scheduler.peer.members.witness import WitnessLog
from ha_scheduler.peer.network.links import Dialer, Links, Security
from ha_scheduler.peer.network.listener import Listener
from ha_scheduler.peer.network.watchers import Watchers
from ha_scheduler.peer.operators.audited import RefusalAudit, State, StateAudit
from ha_scheduler.peer.operators.control import Control
from ha_scheduler.peer.operators.copies import Copies
from ha_scheduler.peer.operators.examination import Examination
from ha_scheduler.peer.operators.history_file import HistoryFile
from ha_scheduler.peer.operators.report import Report
from ha_scheduler.peer.operators.scheduler_file import SchedulerFile
from ha_scheduler.peer.operators.service_manager import ServiceManager
from ha_scheduler.peer.replica import Replica
from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import ProtocolError
from ha_scheduler.protocol.introduction import TIMEOUT_S, Kind, RefusedError, accept
from ha_scheduler.protocol.peer import HELLO, PeerHello, Purpose
from ha_scheduler.raft.messages import Message
from ha_scheduler.raft.node import RawNode
from ha_scheduler.security.contexts import server_context
from ha_scheduler.security.identity import Identity
from ha_scheduler.security.tls import check_peer
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.vip.no_address import NoAddress

ENGINE_MODULE = "ha_scheduler.engine"
HAND_OVER_S = 1.5  # a stopping leader waits this long for another to lead

logger = logging.getLogger(__name__)


def run(
    settings: PeerSettings,
    engine_module: str = ENGINE_MODULE,
    reread: Callable[[], PeerSettings] | None = None,
    engine_stderr: Callable[[], int] | None = None,
) -> int:
    """Run this peer to its end. Returns the exit status.

    ``reread``: what the operator's settings are now, for SIGHUP; it blocks, and raises
    ``OperatorError``. ``engine_stderr`` opens what engines write theirs to.

    Raises ``OperatorError`` and ``StorageError`` before anything is started.
    """
    manager = ServiceManager.of(os.environ)  # before anything is started, which would inherit it
    plan = isolate(settings)  # it forks, so before any thread
    security = derived.security(settings)
    with contextlib.ExitStack() as stack:
        stack.callback(manager.close)
        peer_port, another = settings.address.peer_port, "give this peer another one in --peers"
        sock = stack.enter_context(bind(settings.listen_host, peer_port, "peer port", another))
        asker = Asker(settings.name, security)
        known = opening.found(settings, lambda: asyncio.run(asker.learn_cell(settings.cell)))
        bridge = _Durability()
        store = opening.open_store(settings, known, bridge)
        stack.callback(store.close)
        roster = opening.call_roll(settings, known, store)
        stack.enter_context(derived.kept_pid_file(settings))
        witness = roster.own.witness
        dask = () if witness else dask_port.listen(settings.listen_host, settings.address.dask_port)
        for listening in dask:
            stack.callback(listening.close)
        audit = opening.open_audit(settings)
        stack.callback(audit.close)
        vip = derived.virtual_address(settings)
        daemon = _Daemon(
            settings,
            security,
            roster,
            asker,
            store,
            bridge,
            engine_module,
            plan,
            vip,
            audit,
            dask,
            reread,
            engine_stderr,
            manager,
        )
        return asyncio.run(daemon.main(sock))


class _Durability:
    """Carries the store's completions from its writer thread to the loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._driver: Driver | None = None

    def attach(self, driver: Driver) -> None:
        self._loop, self._driver = asyncio.get_running_loop(), driver

    def __call__(self, number: int, error: Exception | None) -> None:
        if self._loop is None or self._driver is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._driver.on_durable, number, error)


class _Daemon:
    def __init__(
        self,
        settings: PeerSettings,
        security: Security,
        roster: Roster,
        asker: Asker,
        store: LmdbStore,
        bridge: _Durability,
        engine_module: str,
        plan: Plan,
        vip: NoAddress,
        audit: AuditLog,
        dask: Sequence[socket.socket],
        reread: Callable[[], PeerSettings] | None,
        engine_stderr: Callable[[], int] | None,
        manager: ServiceManager,
    ) -> None:
        self._dask_sockets = dask
        self._manager = manager
        self._settings = settings
        self._security = security
        self._roster = roster
        self._asker = asker
        self._store = store
        self._bridge = bridge
        self._engine_module = engine_module
        self._plan = plan
        self._vip = vip
        self._audit = audit
        self._reread = reread
        self._reloading: asyncio.Task[None] | None = None
        self._engine_stderr = engine_stderr
        self._stop = asyncio.Event()
        self._signals = 0
        self._certificates = Certificates(settings)
        self._enrolment: Enrolment | None = None

    async def main(self, sock: socket.socket) -> int:
        """Start the parts, wait, end them."""
        raise_limit()
        self._build()
        with self._signal_handlers():
            await self._listener.start(sock)
            self._dask_port.answer()
            self._start_enrolment()
            self._vip.start()
            if self._web is not None:
                self._web.start()
            tasks = [
                asyncio.create_task(part)
                for part in (
                    self._driver.run(),
                    self._links.run(),
                    self._run_engines(),
                    self._tick(),
                    self._certificates.run(),
                    self._look_after_tokens(),
                    self._keep_scheduler_file(),
                    self._history_file.run(),
                    self._compare_ledgers(),
                )
            ]
            joining = asyncio.create_task(self._join())
            logger.info(
                "peer %s of cell %s is up",
                self._settings.name,
                self._roster.founding.identity,
                extra={"action": "peer_up"},
            )
            self._manager.ready()
            try:
                return await self._until_stopped(tasks)
            finally:
                await self._end([*tasks, joining])

    def _build(self) -> None:
        settings, store = self._settings, self._store
        timing, own_id = settings.timing, store.peer_id
        contact = LeaderLease(own_id, derived.lease_s(timing))
        log = WitnessLog(store) if self._roster.own.witness else store
        node = RawNode(
            derived.config(settings, own_id), log, random.SystemRandom(), store.applied()
        )
        self._replica = Replica(settings, self._roster, store, contact, self._vip)
        self._history_file = HistoryFile(settings.data_dir, self._replica.history)
        self._history_file.load()
        reconfiguration, identity = self._replica.reconfiguration, self._roster.founding.identity
        dialer = Dialer(
            identity,
            self._roster.own,
            timing.promise_ms,
            self._security,
            lambda: reconfiguration.fresh,
            lambda: self._roster.cell_id,
        )
        call_soon = asyncio.get_running_loop().call_soon
        self._driver = Driver(
            node, store, self._replica, contact, timing.tick_s, call_soon=call_soon
        )
        self._links = Links(own_id, dialer, self._replica)
        self._sender = SnapshotSender(
            store, self._links.address, dialer, self._driver.report_snapshot, self._roster.tables_of
        )
        self._receiver = SnapshotReceiver(settings.data_dir, own_id, self._step_snapshot)
        site = SiteCommand(settings.token_command)
        self._issuer = Issuer(self._replica, store, settings.data_dir, site)
        self._local = LocalTokens(settings, self._issuer, self._replica.ring)
        self._replica.before_serving = self._write_tokens
        certificates = self._certificates
        self._report = report = Report(self._replica, store, self._plan.summary, certificates)
        watchers = Watchers(report.watch_view)
        self._replica.connect(self._driver, self._links, self._sender, self._receiver, watchers)
        context = server_context(settings.tls) if settings.tls is not None else None
        serves = self._replica.serving
        self._dask_port = DaskPort(self._dask_sockets, context, report.watch_view, serves)
        self._replica.engine.on_port = self._give_port
        self._replica.engine.on_refused = RefusalAudit(self._audit).note
        self._web = derived.web_port(settings, self._replica, report, store, self._audit)
        self._bridge.attach(self._driver)
        self._supervisor = Supervisor(
            self._engine_module,
            self._replica.engine,
            settings.engine_watchdog_s,
            self._plan,
            environment(settings, self._plan),
            self._dask_port.descriptors,
            self._engine_stderr() if self._engine_stderr is not None else None,
        )
        examination = Examination(settings, self._roster, self._asker, self._replica.serving)
        self._listener = Listener(
            identity,
            self._roster.is_own_cell,
            self._roster.is_operators,
            self._security,
            {
                Kind.PEER: self._serve_peer,
                Kind.WATCH: watchers.serve,
                Kind.CONTROL: Control(
                    self._replica,
                    report,
                    self._issuer,
                    self._audit,
                    Copies(store, self._roster),
                    examination.run,
                ).serve,
            },
            lambda: self._replica.ring.ring,
            self._audit,
        )

    # -- the peer port

    async def _serve_peer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: Identity
    ) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            said = await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX)
        try:
            hello = HELLO.decode(said)
        except ProtocolError as error:
            raise RefusedError(f"this is no hello of a peer: {error}") from error
        said_to_be = named(hello.own)
        self._admit(hello, said_to_be, writer.get_extra_info("ssl_object"))
        writer.write(frames.pack(accept()))
        if hello.purpose is Purpose.SNAPSHOT:
            await self._receiver.serve(said_to_be.peer, reader, writer)
        else:
            await self._links.serve(said_to_be, hello.purpose, reader)

    def _admit(self, hello: PeerHello, caller: PeerNamed, shown: ssl.SSLObject | None) -> None:
        """Raises ``RefusedError``."""
        own, promise_ms = self._roster.own, self._settings.timing.promise_ms
        check_peer(shown, caller.name)
        if (hello.to, hello.to_id) != (own.name, own.peer):
            raise RefusedError(
                f"this is peer {own.name} with disk {own.peer}, not {hello.to} with {hello.to_id}"
            )
        if hello.promise_ms != promise_ms:
            # A leader's lease rests on its own setting: the promise of the others must be equal.
            raise RefusedError(
                f"peer {own.name} elects nobody for {promise_ms} ms after it heard a leader, and "
                f"peer {caller.name} for {hello.promise_ms} ms; give all peers the same --tick-ms "
                "and --election-ticks"
            )
        if reason := self._roster.stranger(caller, hello.cell_id):
            raise RefusedError(reason)
        if reason := misfit(distributed_release(), hello.distributed):
            raise RefusedError(f"peers {own.name} and {caller.name} do not fit: {reason}")
        members = self._driver.node.membership.peers
        reason = self._roster.gone(caller.peer, caller.disk, members)
        if reason:
            raise RefusedError(reason, gone=True)
        self._replica.reconfiguration.on_hello(caller, fresh=hello.fresh)

    def _step_snapshot(self, message: Message) -> bool:
        self._driver.step(message)
        return self._driver.node.first_index > self._store.first_index()

    def _start_enrolment(self) -> None:
        """Nodes get certificates, if the operator has named a port for it."""
        settings = self._settings
        if settings.enrolment_port is None or settings.tls is None:
            return
        address = self._roster.founding.client_address
        another = "name another one with --enrolment-port"
        sock = bind(settings.listen_host, settings.enrolment_port, "enrolment port", another)
        self._enrolment = Enrolment(self._replica, self._issuer, settings.tls, address)
        self._enrolment.start(sock)

    async def _keep_scheduler_file(self) -> None:
        path = self._settings.scheduler_file
        if path is not None:
            await SchedulerFile(path, self._report.watch_view).run()
        await asyncio.Event().wait()

    async def _compare_ledgers(self) -> None:
        if not self._roster.own.witness:
            await compare(self._replica, self._store)
        await asyncio.Event().wait()  # a witness has no ledger

    def _give_port(self, to_engine: bool) -> None:
        if to_engine:
            self._dask_port.leave_to_engine()
        else:
            self._dask_port.answer()

    # -- life and end

    async def _run_engines(self) -> None:
        if not self._roster.own.witness:
            await self._supervisor.run()
        await asyncio.Event().wait()  # a witness has no engine

    async def _join(self) -> None:
        """A disk that is no member asks to become one; a refusal ends the peer."""
        joining = Joiner(
            self._asker,
            self._roster.own,
            self._roster.founding.identity,
            self._settings.admission,
            # The disk may know the founders only, and they may all have been replaced.
            lambda: (*self._roster.current(), *self._settings.cell.peers),
            lambda: self._roster.own.peer in self._driver.node.membership.peers,
            learner=self._settings.learner,
        )
        try:
            await joining.run()
        except OperatorError as error:
            self._replica.on_fatal(error)

    async def _tick(self) -> None:
        state = StateAudit(self._audit, self._state)
        while True:
            self._replica.tick()
            self._replica.engine.name_leader(self._report.leader())
            state.look()
            self._dask_port.tick()
            self._manager.tick(time.monotonic())
            if self._web is not None:
                self._web.tick()
            await asyncio.sleep(self._settings.timing.tick_s)

    def _state(self) -> State:
        members = self._driver.node.membership.peers
        names = {self._roster.name(peer) or str(peer) for peer in members}
        return self._replica.leading(), self._replica.term(), frozenset(names)

    def _write_tokens(self) -> asyncio.Task[None] | None:
        return asyncio.create_task(self._local.write()) if self._local.missing() else None

    async def _look_after_tokens(self) -> None:
        """While this peer leads: local files are renewed, and old keys retired."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._replica.leading() and self._replica.ring.ring is not None:
                await self._local.write()
                await self._issuer.retire_old()

    async def _until_stopped(self, tasks: list[asyncio.Task[None]]) -> int:
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            done, _ = await asyncio.wait(
                {stop, self._replica.failed, *tasks}, return_when=asyncio.FIRST_COMPLETED
            )
            ended = [future.exception() for future in done if future is not stop]
            if ended:
                # The driver ends without an error when another part fails.
                failure = next((error for error in ended if error is not None), None)
                logger.critical(
                    "this peer stops: %s",
                    failure or "a part of it ended",
                    exc_info=failure,
                    extra={"action": "peer_failed"},
                )
                return EXIT_FAILED
            await self._hand_over()
            return 0
        finally:
            stop.cancel()
            if not self._replica.failed.done():
                self._replica.failed.cancel()

    async def _hand_over(self) -> None:
        """Let another peer lead before this one goes, if one can."""
        replica = self._replica
        if not replica.leading():
            return
        reason = replica.transfer(None)
        if reason is not None:
            logger.warning(
                "stopping without a successor: %s", reason, extra={"action": "no_successor"}
            )
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_S):
                while replica.leading() or replica.leader_name() is None:  # noqa: ASYNC110
                    await asyncio.sleep(self._settings.timing.tick_s / 10)

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        self._supervisor.stop()  # first: the next leader must not find this engine alive
        self._driver.stop()
        self._vip.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._sender.stop()
        await self._listener.stop()
        await self._dask_port.stop()
        if self._enrolment is not None:
            await self._enrolment.stop()
        if self._web is not None:
            await self._web.stop()
        await self._replica.hooks.stop()
        self._history_file.save()
        await self._replica.scale_command.stop()

    @contextlib.contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _on_hangup(self) -> None:
        self._certificates.reload()
        if self._reread is not None:
            self._reloading = asyncio.create_task(self._reload(self._reread))

    async def _reload(self, reread: Callable[[], PeerSettings]) -> None:
        """Take what can be taken of the settings of now, and say what cannot."""
        try:
            new = await asyncio.to_thread(reread)
        except OperatorError as error:
            logger.error(
                "the settings stay as they are: %s", error, extra={"action": "reload_refused"}
            )
            return
        changes = reloading.compare(self._settings, new)
        self._driver.node.priority = new.priority
        self._supervisor.watchdog_s = new.engine_watchdog_s
        self._settings.engine_options["log_level"] = new.engine_options["log_level"]
        self._settings = replace(
            self._settings, priority=new.priority, engine_watchdog_s=new.engine_watchdog_s
        )
        taken = reloading.in_words(changes.taken) or "nothing new"
        logger.info("reloaded the settings: %s", taken, extra={"action": "settings_reloaded"})
        if changes.waiting:
            logger.warning(
                "these settings have changed and wait for a restart of this peer: %s",
                reloading.in_words(changes.waiting),
                extra={"action": "restart_needed"},
            )

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            os._exit(128 + number)  # the kernel ends the engine with us
        logger.info("stopping on signal %d", number, extra={"action": "stopping"})
        self._manager.stopping()
        self._stop.set()
