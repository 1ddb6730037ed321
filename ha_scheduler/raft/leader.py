"""What a peer knows and does only while it leads, for one term.

The guarantee: the leader advances the commit index only to an entry of its own term that a
majority of the newest membership has made durable (5.4.2 of the paper, thesis 3.6.2), its own
disk counting like any other and only once the write completed. Everything here dies with the
term: a `Leader` is made at the election and dropped at the step-down, so nothing can leak from
one term into the next.

The lease: a follower that accepted a message refuses candidates for ``election_ticks``. Responses
echo the leader's tick at *sending*; while a quorum's echoes are younger than ``election_ticks -
lease_margin_ticks``, no other leader can exist. A leadership transfer overrules that refusal, so
from the sending of TIMEOUT_NOW on there is no lease until its target answers something sent later
(after which the target ignores that TIMEOUT_NOW).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from .config import Config
from .errors import (
    CompactedError,
    EntryTooLargeError,
    InvariantViolationError,
    MembershipChangeError,
    ProposalDroppedError,
    TransferError,
)
from .log import RaftLog
from .membership import (
    ChangeKind,
    MembershipChange,
    MembershipHistory,
    changed,
    encode_membership,
)
from .messages import (
    NO_PEER,
    Entry,
    EntryKind,
    Membership,
    Message,
    MessageKind,
    PeerId,
    entry_size,
)
from .outbox import Outbox
from .progress import Inflights, Progress, ProgressState
from .quorum import agreed_value
from .reads import PendingRead, ReadQueue
from .ready import ReadState

AnswerRead = Callable[[ReadState], None]


class Leader:
    """Leadership of one term. The core forwards to it what concerns a leader."""

    def __init__(
        self,
        config: Config,
        term: int,
        log: RaftLog,
        history: MembershipHistory,
        outbox: Outbox,
        answer_read: AnswerRead,
    ) -> None:
        self.term = term
        self.transferee: PeerId = NO_PEER
        self.progress: dict[PeerId, Progress] = {}
        self._config = config
        self._id = config.peer_id
        self._log = log
        self._history = history
        self._outbox = outbox
        self._answer_read = answer_read
        self._now = 0  # ticks since the election
        # The end of the log at each of the last ticks: what a learner must have to be promoted.
        self._log_ends = deque([log.last_index], maxlen=config.promotion_lag_ticks + 1)
        self._round = 1  # of heartbeats; 0 would mean "answers nothing of this term"
        self._since_heartbeat = 0
        self._since_quorum_check = 0
        self._transfer_elapsed = 0
        self._timeout_now_sent: dict[PeerId, int] = {}  # target -> tick
        self._reads = ReadQueue()
        self._uncommitted: deque[tuple[int, int]] = deque()  # index, bytes
        self._uncommitted_bytes = 0
        self._committed_in_term = False
        self._sync_progress(recently_active=False)

    # -- state -----------------------------------------------------------------------------

    @property
    def removed(self) -> bool:
        """This leader committed a membership that it is no voter of (4.2.2): it must go."""
        voters = self._history.current.voters
        return self._id not in voters and self._history.index <= self._log.commit

    @property
    def lease_valid(self) -> bool:
        """Whether no other peer can have become leader yet, as far as ticks can tell."""
        if not self._config.check_quorum or not self._transfers_settled():
            return False
        age = self._quorum_age(self._history.current)
        return age < self._config.election_ticks - self._config.lease_margin_ticks

    def _quorum_age(self, membership: Membership) -> int:
        """Ticks since this leader sent the newest message that a quorum has answered."""
        sent = {peer: progress.acked_tick for peer, progress in self.progress.items()}
        sent[self._id] = self._now
        return self._now - agreed_value(membership.voters, sent)

    def _transfers_settled(self) -> bool:
        """Whether every TIMEOUT_NOW ever sent can have no effect any more."""
        for peer in list(self._timeout_now_sent):
            progress = self.progress.get(peer)
            if progress is not None and progress.acked_tick > self._timeout_now_sent[peer]:
                del self._timeout_now_sent[peer]
        return not self._timeout_now_sent

    # -- time ------------------------------------------------------------------------------

    def tick(self) -> bool:
        """One tick passed. False: this leader has lost its quorum and must step down."""
        self._now += 1
        self._log_ends.append(self._log.last_index)
        self._since_heartbeat += 1
        self._since_quorum_check += 1
        if self._config.check_quorum and not self._still_has_quorum():
            return False
        self._tick_transfer()
        if self._since_heartbeat >= self._config.heartbeat_ticks:
            self.begin_round()
        return True

    def _still_has_quorum(self) -> bool:
        timeout = self._config.election_ticks
        age = min(self._quorum_age(self._history.current), self._now)
        if self._config.prompt_step_down and age >= timeout:
            return False
        if self._since_quorum_check < timeout:
            return True
        self._since_quorum_check = 0
        active = {p: 1 for p, progress in self.progress.items() if progress.recently_active}
        active[self._id] = 1
        for progress in self.progress.values():
            progress.recently_active = False
        return agreed_value(self._history.current.voters, active) > 0

    def _tick_transfer(self) -> None:
        if self.transferee == NO_PEER:
            return
        self._transfer_elapsed += 1
        if self._transfer_elapsed >= self._config.election_ticks:
            self.transferee = NO_PEER  # 3.10: it failed; serve clients again

    # -- proposals -------------------------------------------------------------------------

    def start(self) -> None:
        """Append the no-op that lets entries of older terms commit (5.4.2, 6.4)."""
        self._append([(EntryKind.NORMAL, b"")])

    def propose(self, batch: Sequence[bytes]) -> int:
        """Append proposals. Returns the index of the last."""
        self._check_accepting()
        for data in batch:
            if len(data) > self._config.max_entry_bytes:
                raise EntryTooLargeError(
                    f"{len(data)} bytes exceed max_entry_bytes ({self._config.max_entry_bytes}); "
                    "split the proposal"
                )
        self._check_room(sum(map(len, batch)))
        return self._append([(EntryKind.NORMAL, data) for data in batch])

    def propose_change(self, change: MembershipChange) -> int:
        """Append a membership change, which is in force at once. Returns its index."""
        self._check_accepting()
        if not self._committed_in_term:
            raise MembershipChangeError(
                "this leader has not yet committed an entry of its term (4.1, erratum of 2015); "
                "retry shortly"
            )
        if self._history.index > self._log.commit:
            raise MembershipChangeError(
                f"the change at {self._history.index} is not committed yet; one at a time"
            )
        after = changed(self._history.current, change)
        if change.kind is ChangeKind.ADD_VOTER:
            self._check_caught_up(change.peer)
        self._check_live_quorum(after, change)
        return self._append([(EntryKind.CONF_CHANGE, encode_membership(after, change.context))])

    def _check_caught_up(self, peer: PeerId) -> None:
        """4.2.1: a voter that lacks much of the log may be the one that a majority waits for."""
        progress = self.progress.get(peer)
        if progress is None:
            raise MembershipChangeError(
                f"peer {peer} is no learner; add it as one first, to let it catch up"
            )
        silent = self._now - progress.acked_tick
        if silent > self._config.promotion_lag_ticks:
            raise MembershipChangeError(
                f"learner {peer} has not answered anything sent in the last "
                f"{self._config.promotion_lag_ticks} ticks (promotion_lag_ticks); is it up?"
            )
        if progress.match < self._log_ends[0]:
            raise MembershipChangeError(
                f"learner {peer} has the log up to {progress.match} of {self._log.last_index}; it "
                f"must have what was there {len(self._log_ends) - 1} ticks ago, which ended at "
                f"{self._log_ends[0]} (promotion_lag_ticks is {self._config.promotion_lag_ticks}); "
                "retry later"
            )

    def _check_live_quorum(self, after: Membership, change: MembershipChange) -> None:
        """A change that the remaining peers cannot commit would stop the cell, perhaps for good."""
        age = self._quorum_age(after)
        if age >= self._config.election_ticks:
            heard = [
                peer
                for peer in after.voters
                if peer == self._id
                or self._now - self.progress[peer].acked_tick < self._config.election_ticks
            ]
            raise MembershipChangeError(
                f"{change.kind.name} of peer {change.peer} would leave the voters {after.voters}, "
                f"and of them only {heard} answered within an election timeout: no majority"
            )

    def _check_accepting(self) -> None:
        if self.transferee != NO_PEER:
            raise ProposalDroppedError(f"leadership is being handed to peer {self.transferee}")
        if self._id not in self.progress:
            raise ProposalDroppedError("this leader is being removed from the cell")

    def _check_room(self, size: int) -> None:
        room = self._config.max_uncommitted_bytes - self._uncommitted_bytes
        if size > room and self._uncommitted_bytes > 0:
            raise ProposalDroppedError(
                f"{self._uncommitted_bytes} bytes wait for commit and {size} more exceed "
                f"max_uncommitted_bytes ({self._config.max_uncommitted_bytes}); retry later"
            )

    def _append(self, proposals: Sequence[tuple[EntryKind, bytes]]) -> int:
        first = self._log.last_index + 1
        entries = tuple(
            Entry(self.term, first + offset, kind, data)
            for offset, (kind, data) in enumerate(proposals)
        )
        self._log.append(entries)
        for entry in entries:
            if entry.data:
                self._uncommitted.append((entry.index, len(entry.data)))
                self._uncommitted_bytes += len(entry.data)
        if self._history.append(entries):
            self.membership_changed()
        self._broadcast_append()
        return entries[-1].index if entries else first - 1

    # -- membership ------------------------------------------------------------------------

    def membership_changed(self) -> None:
        """Replicate to whom the newest membership names, and to nobody else."""
        self._sync_progress(recently_active=True)
        if self.transferee not in self._history.current.voters:
            self.transferee = NO_PEER
        self._maybe_commit()

    def _sync_progress(self, *, recently_active: bool) -> None:
        peers = self._history.current.peers
        for gone in self.progress.keys() - set(peers):
            del self.progress[gone]
        for peer in peers:
            if peer not in self.progress:
                self.progress[peer] = self._new_progress(peer, recently_active)
        self.progress = {peer: self.progress[peer] for peer in peers}  # keep the order sorted

    def _new_progress(self, peer: PeerId, recently_active: bool) -> Progress:
        config = self._config
        window = Inflights(config.max_inflight_messages, config.max_inflight_bytes)
        progress = Progress(self._log.last_index + 1, window)
        progress.recently_active = recently_active
        if peer == self._id:
            progress.become_replicate()
            progress.recently_active = True
            progress.accepted(self._log.durable_index)
            progress.next = self._log.last_index + 1
        return progress

    # -- sending ---------------------------------------------------------------------------

    def _send(self, kind: MessageKind, to: PeerId, **fields: object) -> None:
        self._outbox.send(
            Message(
                kind=kind,
                to=to,
                source=self._id,
                term=self.term,
                round=self._round,
                tick=self._now,
                **fields,  # type: ignore[arg-type]
            )
        )

    def _broadcast_append(self) -> None:
        for peer, progress in self.progress.items():
            if peer != self._id and self._send_append(peer, progress, even_if_empty=True):
                self._fill_pipeline(peer, progress)

    def _fill_pipeline(self, peer: PeerId, progress: Progress) -> None:
        """Send all that the window admits: what is larger than one append need not wait."""
        while self._send_append(peer, progress, even_if_empty=False):
            pass

    def _send_append(self, peer: PeerId, progress: Progress, *, even_if_empty: bool) -> bool:
        """Send the next entries if flow control lets us. Returns whether anything was sent."""
        if progress.paused:
            return False
        entries: tuple[Entry, ...] = ()
        try:
            log_term = self._log.term(progress.next - 1)
            if progress.state is not ProgressState.REPLICATE or not progress.inflights.full:
                limit = self._config.max_append_bytes
                entries = self._log.entries(progress.next, self._log.last_index + 1, limit)
        except CompactedError:
            return self._send_snapshot(peer, progress)
        if not entries and not even_if_empty:
            return False
        self._outbox.send(
            Message(
                kind=MessageKind.APPEND,
                to=peer,
                source=self._id,
                term=self.term,
                log_term=log_term,
                index=progress.next - 1,
                commit=self._log.commit,
                entries=entries,
                round=self._round,
                tick=self._now,
            )
        )
        progress.sent(len(entries), sum(map(entry_size, entries)), self._log.commit)
        return True

    def _send_snapshot(self, peer: PeerId, progress: Progress) -> bool:
        if not progress.recently_active:
            return False  # nobody is there to take it
        snapshot = self._log.snapshot()
        if snapshot is None:
            return False  # we have none to give; the next response of the follower asks again
        progress.become_snapshot(snapshot.index)
        self._send(MessageKind.SNAPSHOT, peer, snapshot=snapshot)
        return True

    def begin_round(self) -> None:
        """A heartbeat to everyone; reads asked for so far are served by it."""
        self._since_heartbeat = 0
        self._round += 1
        if self._committed_in_term:
            self._reads.place(self._log.commit, self._round)
        for peer, progress in self.progress.items():
            if peer != self._id:
                commit = min(progress.match, self._log.commit)
                self._send(MessageKind.HEARTBEAT, peer, commit=commit)
                progress.sent_commit = max(progress.sent_commit, commit)
        self._answer_confirmed_reads()

    # -- responses -------------------------------------------------------------------------

    def on_append_response(self, message: Message) -> None:
        progress = self._responder(message)
        if progress is None:
            return
        if message.reject:
            self._on_rejection(message, progress)
        else:
            self._on_acceptance(message, progress)
        self._answer_confirmed_reads()

    def on_heartbeat_response(self, message: Message) -> None:
        progress = self._responder(message)
        if progress is None:
            return
        progress.waiting = False
        if progress.match < self._log.last_index or progress.state is ProgressState.PROBE:
            self._send_append(message.source, progress, even_if_empty=True)
        self._answer_confirmed_reads()

    def _responder(self, message: Message) -> Progress | None:
        progress = self.progress.get(message.source)
        if progress is None or message.source == self._id:
            return None
        if message.round == 0 and message.index == 0:
            return None  # it tells a deposed leader of a newer term: it answers nothing of ours
        progress.heard(message.round, message.tick)
        return progress

    def _on_rejection(self, message: Message, progress: Progress) -> None:
        hint = message.reject_hint
        if message.log_term > 0:
            hint, _ = self._log.last_index_not_after_term(hint, message.log_term)
        if progress.rejected(message.index, hint):
            if progress.state is ProgressState.REPLICATE:
                progress.become_probe()
            self._send_append(message.source, progress, even_if_empty=True)

    def _on_acceptance(self, message: Message, progress: Progress) -> None:
        if message.index > self._log.last_index:
            return  # no correct peer acknowledges what this leader never sent
        advanced = progress.accepted(message.index)
        probing = progress.state is ProgressState.PROBE
        if not advanced and not (probing and progress.match == message.index):
            return
        self._resume(message.index, progress)
        if self._maybe_commit():
            self._broadcast_append()
        elif progress.could_learn_commit(self._log.commit):
            self._send_append(message.source, progress, even_if_empty=True)
        self._fill_pipeline(message.source, progress)
        if message.source == self.transferee:
            self._try_transfer()

    def _resume(self, index: int, progress: Progress) -> None:
        if progress.state is ProgressState.PROBE:
            progress.become_replicate()
        elif progress.state is ProgressState.REPLICATE:
            progress.inflights.acknowledge(index)
        elif progress.match + 1 >= self._log.first_index:
            progress.become_probe()
            progress.become_replicate()

    def persisted(self) -> None:
        """This peer's own disk caught up: it counts like any follower's acknowledgement."""
        own = self.progress.get(self._id)
        if own is not None and own.accepted(self._log.durable_index) and self._maybe_commit():
            self._broadcast_append()

    # -- commitment ------------------------------------------------------------------------

    def _maybe_commit(self) -> bool:
        matched = {peer: progress.match for peer, progress in self.progress.items()}
        index = agreed_value(self._history.current.voters, matched)
        if index <= self._log.commit or self._log.term(index) != self.term:
            return False
        self._log.commit_to(index)
        self._committed_in_term = True
        while self._uncommitted and self._uncommitted[0][0] <= index:
            self._uncommitted_bytes -= self._uncommitted.popleft()[1]
        return True

    # -- reads -----------------------------------------------------------------------------

    def read(self, source: PeerId, context: bytes) -> bool:
        """Queue a read for the next round. False: too many are waiting."""
        return self._reads.ask(source, context)

    @property
    def wants_round(self) -> bool:
        return self._reads.wants_round and self._committed_in_term

    def _answer_confirmed_reads(self) -> None:
        if not len(self._reads):
            return
        rounds = {peer: progress.acked_round for peer, progress in self.progress.items()}
        rounds[self._id] = self._round
        for read in self._reads.confirm(agreed_value(self._history.current.voters, rounds)):
            self._answer(read)

    def _answer(self, read: PendingRead) -> None:
        if read.source == self._id:
            self._answer_read(ReadState(read.index, read.context))
        else:
            self._send(
                MessageKind.READ_INDEX_RESPONSE,
                read.source,
                index=read.index,
                context=read.context,
            )

    # -- transfer --------------------------------------------------------------------------

    def transfer(self, to: PeerId) -> None:
        """Bring ``to`` up to date, then have it campaign at once (3.10)."""
        if to == self._id or to not in self._history.current.voters:
            raise TransferError(f"peer {to} is not another voter of {self._history.current}")
        if to == self.transferee:
            return
        self.transferee = to
        self._transfer_elapsed = 0
        if not self._try_transfer():
            self._send_append(to, self.progress[to], even_if_empty=True)

    def _try_transfer(self) -> bool:
        if self.progress[self.transferee].match != self._log.last_index:
            return False
        self.send_timeout_now(self.transferee)
        return True

    def send_timeout_now(self, to: PeerId) -> None:
        self._timeout_now_sent[to] = self._now
        self._send(MessageKind.TIMEOUT_NOW, to)

    def most_advanced_voter(self) -> PeerId:
        """Another voter that has the whole log, or nobody."""
        for peer in self._history.current.voters:
            if peer != self._id and self.progress[peer].match == self._log.last_index:
                return peer
        return NO_PEER

    # -- reports of the transport ----------------------------------------------------------

    def report_snapshot(self, peer: PeerId, ok: bool) -> None:
        """The snapshot was delivered, or will never be. Then wait for the next response."""
        progress = self.progress.get(peer)
        if progress is None or progress.state is not ProgressState.SNAPSHOT:
            return
        if not ok:
            progress.pending_snapshot = 0
        progress.become_probe()
        progress.waiting = True

    def report_unreachable(self, peer: PeerId) -> None:
        """Messages to the peer were lost: stop pipelining until it answers."""
        progress = self.progress.get(peer)
        if progress is None or peer == self._id:
            return
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()

    def check_invariants(self) -> None:
        if tuple(self.progress) != self._history.current.peers:
            raise InvariantViolationError(
                f"replicating to {tuple(self.progress)}, members are {self._history.current.peers}"
            )
        for peer, progress in self.progress.items():
            if peer != self._id:
                progress.check_invariants(self._log.last_index)
        if self._uncommitted_bytes != sum(size for _, size in self._uncommitted):
            raise InvariantViolationError("the sum of uncommitted bytes is wrong")
