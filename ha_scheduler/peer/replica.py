"""One replica of the cell: every event of the peer, dispatched to the part that handles it.

Guarantee: the engine's lease is revoked before anything that ends leadership takes effect outside
this process, and an engine is told to lead only after it was sent every record of earlier terms.
``leadership.py`` decides; this is its only interpreter, and raises ``TypeError`` for an unknown
effect.

Everything here runs on the daemon's event loop and returns at once.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Callable, Iterable, Sequence

from ha_scheduler import shared_lease
from ha_scheduler.ledger import cell_identity, encoding, records
from ha_scheduler.ledger.fold import latest_term
from ha_scheduler.ledger.records import EngineEnded, PeerNamed, Record
from ha_scheduler.peer.consensus.commits import Commits
from ha_scheduler.peer.consensus.compaction import Compaction
from ha_scheduler.peer.consensus.driver import Driver
from ha_scheduler.peer.consensus.leadership import (
    FRESH_S,
    ActivateEngine,
    Effect,
    EngineState,
    KillEngine,
    Leadership,
    OpenTerm,
    Other,
    RevokeLease,
    StepDown,
    Transfer,
)
from ha_scheduler.peer.consensus.lease import LeaderLease
from ha_scheduler.peer.consensus.maintenance import Maintenance
from ha_scheduler.peer.consensus.reads import Reads
from ha_scheduler.peer.consensus.snapshots import SnapshotReceiver, SnapshotSender
from ha_scheduler.peer.engine.ends import Ends
from ha_scheduler.peer.engine.engine_side import EngineSide
from ha_scheduler.peer.engine.feed import CommittedTail
from ha_scheduler.peer.identity.ring_keeper import RingKeeper
from ha_scheduler.peer.members.agreement import Agreement
from ha_scheduler.peer.members.reconfiguration import Reconfiguration
from ha_scheduler.peer.members.releases import format_of_cell
from ha_scheduler.peer.members.roster import Roster
from ha_scheduler.peer.members.witness import without_ledger
from ha_scheduler.peer.network.links import Links
from ha_scheduler.peer.network.others import Others
from ha_scheduler.peer.network.watchers import Watchers
from ha_scheduler.peer.operators.alarms import Alarms
from ha_scheduler.peer.operators.history import LeaderHistory
from ha_scheduler.peer.operators.scale_command import ScaleCommand
from ha_scheduler.peer.operators.service import Service
from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.protocol import RELEASE
from ha_scheduler.protocol.engine import Mark, ScaleWanted
from ha_scheduler.protocol.peer import Gossip
from ha_scheduler.protocol.ring import Ring
from ha_scheduler.raft.errors import CallerError
from ha_scheduler.raft.messages import Entry, Message, MessageKind, ServerState, SnapshotMeta
from ha_scheduler.raft.quorum import majority
from ha_scheduler.raft.ready import Ready as RaftReady
from ha_scheduler.raft.ready import SoftState
from ha_scheduler.storage.port import PeerStore, SnapshotInstall, WriteBatch
from ha_scheduler.vip.hooks import Hooks
from ha_scheduler.vip.no_address import NoAddress

GOSSIP_EVERY_S = 0.5  # and at once at each change
ENGINE_LAG_S_MAX = 1.0  # an engine further behind would lead late

_QUESTION = struct.Struct(">QQ")  # term, number of the ``Confirm``: a pair is used once

logger = logging.getLogger(__name__)


class LeftTheCellError(Exception):
    """Operator: this disk was removed or replaced; it must not act again."""


class Replica:
    """The events of the core, the engine and the other peers."""

    def __init__(
        self,
        settings: PeerSettings,
        roster: Roster,
        store: PeerStore,
        contact: LeaderLease,
        vip: NoAddress | None = None,
    ) -> None:
        self.vip = vip or NoAddress()
        self.hooks = Hooks(settings.hooks, settings.name, roster.founding.identity)
        self.scale_command = ScaleCommand(
            settings.scale_command, settings.name, roster.founding.identity
        )
        self.settings = settings
        self.roster = roster
        self.others = Others()
        self.reconfiguration = Reconfiguration(
            roster,
            store,
            settings.timing.election_s[0],
            self.others.heard_at,
            lambda: self.transfer(None),
            self._changed,
        )
        self.leadership = Leadership()
        self.maintenance = Maintenance(settings.name)
        self.history = LeaderHistory()
        self.service = Service()
        self.agreement = Agreement(settings.name)
        self._ends = Ends(self.history, self.propose)
        self.failed = asyncio.get_running_loop().create_future()
        self.driver: Driver  # set by ``connect``: the parts know each other both ways
        self.links: Links
        self.watchers: Watchers
        self.snapshots: SnapshotSender
        self.incoming: SnapshotReceiver
        self._witness = roster.own.witness
        self._store = store
        self._contact = contact
        self._tail = CommittedTail(store, store.applied())
        self.engine = EngineSide(settings, roster, store, self._tail, self)
        self.commits = Commits()
        self.reads = Reads()
        #: What is to be over before the first engine of a term listens, if anything.
        self.before_serving: Callable[[], asyncio.Task[None] | None] = lambda: None
        self.ring = RingKeeper(
            store,
            roster,
            self._ring_changed,
            tls=settings.tls is not None,
            certificate_alone=settings.certificate_alone,
        )
        self.compaction = Compaction(store.first_index(), store.last_index(), store.space())
        self.applied = store.applied()
        self.alarms = Alarms(store, roster.name, time.monotonic())
        self.state = SoftState(ServerState.FOLLOWER, 0, 0)
        self._leads_since = 0.0  # the newest leader that we know, by the lease's clock
        self._detected: float | None = None
        self.format = records.FORMAT  # of the term that we opened
        self._open_at: tuple[int, int] | None = None  # (term, index) of our TermStarted
        self._serving: tuple[int, str, str] | None = None  # term, leader, address
        self._gossiped_at = 0.0
        self._gossiped_replayed = 0
        self._say_we_are_gone: set[int] = set()  # peers that refuse this disk

    def connect(
        self,
        driver: Driver,
        links: Links,
        snapshots: SnapshotSender,
        incoming: SnapshotReceiver,
        watchers: Watchers,
    ) -> None:
        """Set the parts that need this one."""
        self.driver, self.links, self.watchers = driver, links, watchers
        self.snapshots, self.incoming = snapshots, incoming
        driver.node.electable = False
        self.reconfiguration.connect(driver, links)
        self.ring.load(self.applied)
        self._load_maintenance()

    # -- events of the core (DriverEvents)

    def on_soft_state(self, state: SoftState) -> None:
        now, before, self.state = time.monotonic(), self.state, state
        leading = state.role is ServerState.LEADER
        self._note_service(now)
        self._note_detection(now, before, state)
        if leading and state.term != self._contact.term:
            self._contact.begin(state.term)
        if leading and not (before.role is ServerState.LEADER and before.term == state.term):
            name = self.settings.name
            noticed = self.service.first_noticed(now, self.others.waited_s(now))
            self.history.begin(state.term, name, self._detected or now, now, noticed)
            self._detected = None
            self._ends.note_cause()
        if (leader := self._name(state.leader)) is not None:
            self.maintenance.leads(leader)
        self._run(self.leadership.role_changed(now, leading, state.term))
        self._move_address(before, state)
        if (before.leader, before.term) != (state.leader, state.term):
            logger.info(
                "%s leads term %d",
                self._name(state.leader) or "nobody",
                state.term,
                extra={"action": "leader_changed"},
            )
            self._changed()

    def _move_address(self, before: SoftState, state: SoftState) -> None:
        if (before.leader, before.term) == (state.leader, state.term):
            return
        if before.role is ServerState.LEADER:
            self.vip.deposed()
            self.hooks.end(state.term)
            self.scale_command.forget()
        if state.role is ServerState.LEADER:
            self.vip.elected(self._leads_since if self.driver.node.handed_over else None)
            self.hooks.lead(state.term)
        if state.leader:
            self._leads_since = shared_lease.now()

    def on_send(self, message: Message) -> None:
        if message.kind is MessageKind.TIMEOUT_NOW:
            self.engine.revoke()  # once it has left, another may be elected
            if not self.vip.give_up():
                return  # and the transfer is given up, too
        if message.kind is MessageKind.SNAPSHOT:
            self.snapshots.send(message)
        else:
            self.links.send(message)

    def on_sent(self) -> None:
        self.links.flush()

    def batch(self, ready: RaftReady) -> WriteBatch:
        """What one ``Ready`` writes, and what may be compacted for it."""
        install = None
        if ready.snapshot is not None:
            self.compaction.restart()
            install = SnapshotInstall(ready.snapshot, self.incoming.chunks(ready.snapshot))
        self.compaction.appended(ready.entries)
        applied = ready.committed[-1].index if ready.committed else None
        compact_to = None
        if applied is not None:
            compact_to = self.compaction.choose(self.applied, self.readers())
        return WriteBatch(
            number=ready.number,
            snapshot=install,
            hard_state=ready.hard_state,
            entries=ready.entries,
            apply=without_ledger(ready.committed) if self._witness else ready.committed,
            applied_index=applied,
            compact_to=compact_to,
            must_sync=ready.must_sync,
        )

    def on_contact(self) -> None:
        """A quorum may have answered again."""
        if self.leadership.engine is EngineState.ACTIVE:
            self.engine.extend(self.driver.certain_until())

    def on_read(self, context: bytes, index: int) -> None:
        """A quorum has answered the engine's question, asked under the term that it was led in; or
        one of a reader of what this peer tells.
        """
        if len(context) != _QUESTION.size:
            self.reads.confirmed(context, index)
            return
        term, number = _QUESTION.unpack(context)
        if self.leading() and self.state.term == term:
            self.engine.confirm(term, number)

    def on_committed(self, entries: Sequence[Entry]) -> None:
        self._tail.append(entries)
        self.reconfiguration.on_committed(entries)
        self._ends.committed(entry.data for entry in entries)
        self.ring.on_committed(entries)
        self.maintenance.on_committed(entries)
        self.commits.on_committed(entries)
        if self._open_at is not None:
            term, index = self._open_at
            if entries[0].index <= index <= entries[-1].index:
                self._open_at = None
                if entries[index - entries[0].index].term == term:
                    self._run(self.leadership.term_opened(term, index))
        self.engine.pump()

    def on_applied(self, index: int) -> None:
        self.applied = index
        self._tail.applied(index)
        self.ring.on_applied(index)
        self.commits.on_applied(index)
        self.reads.on_applied()
        for row in self.alarms.new_rejections():
            self.engine.rejected(row)

    def on_snapshot_installed(self, meta: SnapshotMeta) -> None:
        self.applied = meta.index
        self._tail.restart(meta.index)
        self.incoming.installed(meta)
        self.alarms.replaced()
        self.reconfiguration.on_snapshot_installed(meta.index)
        self.ring.load(meta.index)
        self._load_maintenance()
        self.engine.kill("a snapshot replaced the log it was reading")

    def on_fatal(self, error: BaseException) -> None:
        self.engine.revoke()
        self.vip.deposed()
        if not self.failed.done():
            self.failed.set_exception(error)

    # -- events of the engine (EngineSideEvents)

    def on_engine_started(self) -> None:
        self._run(self.leadership.engine_started())

    def on_engine_ready(self) -> None:
        self._run(self.leadership.engine_ready())
        self._changed()

    def on_engine_exited(self, *, explained: bool) -> None:
        if self.leading():
            self._serving = None
        now, others = time.monotonic(), self._heirs()
        self._run(self.leadership.engine_exited(now, others, explained=explained))
        self._changed()

    def on_engine_explained(self, record: EngineEnded | None) -> None:
        if record is not None:
            self._ends.own(record)
            self._propose_ends()
            self._gossip()
        self._run(self.leadership.exit_explained(time.monotonic(), self._heirs()))

    def on_mark(self, mark: Mark) -> None:
        self.history.mark(mark.term, mark.phase, mark.at, mark.detail)

    def on_confirm(self, term: int, number: int) -> None:
        if self.leading() and self.state.term == term:  # else this engine is about to end
            self.driver.read(_QUESTION.pack(term, number))

    def on_scale(self, message: ScaleWanted) -> None:
        if self.leading() and self.state.term == message.term:
            self.scale_command.want(message)

    def on_serving(self, term: int, address: str) -> None:
        if not self.leadership.leading or term != self.leadership.term:
            return
        self._serving = (term, self.settings.name, address)
        self.history.mark(term, "serving", time.monotonic())
        logger.info(
            "the engine serves term %d at %s",
            term,
            address,
            extra={"action": "engine_serving"},
        )
        self._changed()

    # -- events of the other peers

    def on_gossip(self, peer: int, news: Gossip) -> None:
        """Another peer's report of itself."""
        self.others.heard(peer, news, time.monotonic())
        if news.digest is not None:
            self.agreement.told(self._name(peer) or str(peer), *news.digest)
        self.history.merge(entry for entry in news.history if entry.term <= self.state.term)
        self.reconfiguration.on_admitted(news.disks)
        self._propose_ends(news.ended)
        if news.serving is not None:
            self._learn_serving(peer, news.serving)
        elif peer == self.state.leader and self.serving():
            self._serving = None  # its engine is gone; it leads on and waits for another
            self.watchers.changed()

    # -- events of the links (LinkEvents)

    def on_message(self, message: Message) -> None:
        self.driver.step(message)

    def on_unreachable(self, peer: int) -> None:
        self.driver.report_unreachable(peer)

    def on_connected(self, peer: int) -> None:
        """A stream came up: repeat what it missed."""
        self._say_we_are_gone.discard(peer)
        self._gossip()

    def on_gone(self, peer: int, reason: str) -> None:
        """Another peer refuses this disk as gone: so it is when most of the others do."""
        self._say_we_are_gone.add(peer)
        others = set(self.driver.node.membership.voters) - {self.roster.own.peer}
        if len(self._say_we_are_gone & others) >= majority(len(others)) or not others:
            self.on_fatal(LeftTheCellError(reason))

    def admits(self, caller: PeerNamed) -> bool:
        members = self.driver.node.membership.peers
        return not self.roster.gone(caller.peer, caller.disk, members)

    def _learn_serving(self, peer: int, serving: tuple[int, str, str]) -> None:
        """Of the leader of our term alone; gossip is repeated, should we not know it yet."""
        leads = peer == self.state.leader and serving[0] == self.state.term
        if leads and serving[1] == self._name(peer) and serving != self._serving:
            self._serving = serving
            self.watchers.changed()

    def serving(self) -> tuple[int, str, str] | None:
        """Term, leader and address, once the leader of this term serves."""
        known = self._serving
        return known if known is not None and known[0] == self.state.term else None

    # -- time

    def tick(self) -> None:
        """Called every tick of the cell."""
        now = time.monotonic()
        self._run(self.leadership.tick(now, self._heirs(), self._contact.closed))
        self._keep_orders()
        self.reconfiguration.tick()
        self.engine.pump()
        self._note_service(now)
        self.on_contact()
        self.vip.tick(self.driver.certain_until())
        self.alarms.doubted(now, self.state.term, self.driver.node.doubted)
        peers, failures = len(self.roster.current()), self.links.failures()
        self.alarms.leaderless(now, self.leader_name(), peers, failures)
        self._propose_ends()
        is_nearer = self.engine.replayed != self._gossiped_replayed
        if is_nearer or now - self._gossiped_at >= GOSSIP_EVERY_S:
            self._gossip()

    def _load_maintenance(self) -> None:
        with self._store.view() as view:
            self.maintenance.load(view.tables)

    def _keep_orders(self) -> None:
        """Stand, or not, as operators have ordered, and hand over when drained."""
        self.maintenance.tick()
        self.driver.node.stands = self.maintenance.stands()
        if self.leading() and self.maintenance.drained(self.settings.name):
            self.transfer(None)

    def readers(self) -> int:
        """The lowest index that all live peers and the own engine have read."""
        known = self.others.applied(self.driver.node.membership.peers, time.monotonic())
        if self.engine.fed is not None:
            known.append(self.engine.fed)
        return min(known, default=self.applied)

    # -- what operators and watchers ask

    async def current(self) -> None:
        """Wait until this peer is not out of date. Raises ``NotConfirmed``."""
        await self.reads.current(self.driver.read, lambda: self.applied)

    def leader_name(self) -> str | None:
        return self._name(self.state.leader)

    def heir_name(self) -> str | None:
        """Of a leader: who would lead next."""
        to = self.leadership.nearest(time.monotonic(), self._candidates())
        return self._name(to) if self.leading() and to is not None else None

    def fit_names(self) -> set[str]:
        """Who could lead at once, as far as this leader knows."""
        now = time.monotonic()
        fit = [
            peer
            for peer, other in self._candidates().items()
            if other.engine_ready and now - other.heard_at < FRESH_S
        ]
        own = [self.settings.name] if self.fit_to_lead() or self.serving() else []
        return {*filter(None, map(self._name, fit)), *own}

    def leading(self) -> bool:
        return self.state.role is ServerState.LEADER

    def term(self) -> int:
        return self.state.term

    def transfer(self, to: str | None) -> str | None:
        """Begin a transfer of leadership. Returns the refusal, or None."""
        now = time.monotonic()
        if to == self.settings.name:
            return f"peer {to} leads already"
        voters = self.driver.node.membership.voters
        target = next((peer for peer in voters if self._name(peer) == to), None)
        if to is not None and target is None:
            return f"there is no peer {to} that votes"
        effects = self.leadership.transfer_requested(now, self._candidates(), target)
        if not effects:
            return f"peer {to} is not ready to lead" if to else "no other peer is ready to lead"
        self._run(effects)
        return None

    # -- effects

    def _run(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._do(effect)
        self.driver.node.electable = self.fit_to_lead()

    def fit_to_lead(self) -> bool:
        """Whether our engine could lead at once: ready, and not busy with a large graph.

        A peer that could not is still elected when nobody else stands (``RawNode.electable``).
        """
        in_time = self.leadership.electable and self.engine.lag_s < ENGINE_LAG_S_MAX
        barred = self.reconfiguration.leaving() or self.maintenance.drained(self.settings.name)
        return in_time and not barred

    def _do(self, effect: Effect) -> None:
        match effect:
            case OpenTerm(term):
                self._found_cell()
                self.format = self.format_of_cell()
                started = records.TermStarted(term, self.settings.name, self.format)
                opened = self.propose(started)
                self._open_at = (term, opened)
            case ActivateEngine(term, index):
                self._activate(term, index)
            case RevokeLease():
                self.engine.revoke()
            case KillEngine(why):
                self.engine.kill(why)
            case Transfer(to):
                self._transfer(to)
            case StepDown(why):
                logger.warning("stepping down: %s", why, extra={"action": "step_down"})
                self.engine.revoke()
                self.driver.step_down()
            case _:
                raise TypeError(effect)

    def format_of_cell(self) -> int:
        """What a leader may write, so that all members can read it."""
        with self._store.view() as view:
            latest = latest_term(view.tables)
        written = encoding.decode(latest) if latest is not None else None
        read = {**self.others.formats, self.roster.own.peer: records.FORMAT}
        return format_of_cell(
            written.format if isinstance(written, records.TermStarted) else None,
            self.driver.node.membership.peers,
            read,
        )

    def _found_cell(self) -> None:
        """The first leader draws the identity of the cell, before it opens its term."""
        if self.roster.identity is None:
            self.propose(cell_identity.draw(self.settings.name))

    def _activate(self, term: int, index: int) -> None:
        first = self.before_serving()
        if first is None:
            self._activate_now(term, index)
            return
        engine = self.engine.pid

        def then(_: asyncio.Task[None]) -> None:
            if self.engine.pid == engine and self.leadership.term == term:  # else another follows
                self._activate_now(term, index)

        first.add_done_callback(then)

    def _activate_now(self, term: int, index: int) -> None:
        self.history.mark(term, "activated", time.monotonic())
        self.on_contact()
        self.engine.activate(term, index, self.format, self.driver.propose_batch)

    def _transfer(self, to: int) -> None:
        logger.info("transferring leadership to %s", self._name(to), extra={"action": "transfer"})
        try:
            self.driver.transfer_leadership(to)
        except CallerError as error:
            logger.warning("cannot: %s", error, extra={"action": "transfer_refused"})

    # -- small things

    def _candidates(self) -> dict[int, Other]:
        return self.others.candidates(self.driver.node.membership.voters, self.links.connected)

    def _heirs(self) -> dict[int, Other]:
        """Who may be handed leadership without an operator's word."""
        return {} if self.maintenance.failover_off() else self._candidates()

    def _note_detection(self, now: float, before: SoftState, state: SoftState) -> None:
        """The history starts when this peer takes the old leader for gone."""
        if state.role in (ServerState.PRE_CANDIDATE, ServerState.CANDIDATE):
            if before.role is ServerState.FOLLOWER and self._detected is None:
                self._detected = now
        elif state.role is ServerState.FOLLOWER and state.leader:
            self._detected = None

    def _note_service(self, now: float) -> None:
        serves = bool(self.state.leader) and self.serving() is not None
        if self.service.tick(now, serves=serves):
            self._gossip()

    def _ring_changed(self, ring: Ring) -> None:
        self.engine.tell_ring(ring)
        self.watchers.tell_ring(ring)
        self._gossip()  # a leader waits for all to know a key before it signs

    def _changed(self) -> None:
        self.watchers.changed()
        self._gossip()

    def _gossip(self) -> None:
        self._gossiped_at = time.monotonic()
        self._gossiped_replayed = self.engine.replayed
        self.links.gossip(
            Gossip(
                ready=self.fit_to_lead(),
                applied=self.applied,
                serving=self.serving() if self.leading() else None,
                history=self.history.tail(),
                disks=self.roster.admitted(),
                ended=self._ends.told(),
                dashboard=self.engine.dashboard,
                replayed=self.engine.replayed,
                waited_s=self.service.waited_s(time.monotonic()),
                digest=self.agreement.own,
                release=RELEASE,
                format=records.FORMAT,
            )
        )

    def propose(self, record: Record) -> int:
        """Returns its index. Raises ``CallerError`` while this peer takes nothing."""
        return self.driver.propose(encoding.encode(record, self.format))

    def _propose_ends(self, told: Iterable[bytes] | None = None) -> None:
        if self.leading():
            self._ends.propose(self.state.term, told)

    def _name(self, peer: int) -> str | None:
        return self.roster.name(peer)
