"""What a peer decides while it leads, for one term: commitment, reads, changes, its own end.

The guarantee: the commit index advances only to an entry of the leader's own term that a majority
of the newest membership has made durable (5.4.2 of the paper, thesis 3.6.2); its own disk counts
like any other, once the write completed. A `Leader` is made at the election and dropped at the
step-down, so nothing leaks from one term into the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from .config import Config
from .errors import (
    EntryTooLargeError,
    InvariantViolationError,
    MembershipChangeError,
    ProposalDroppedError,
    TransferError,
)
from .log import RaftLog
from .membership import ChangeKind, MembershipChange, MembershipHistory, changed, encode_membership
from .messages import (
    ENTRY_OVERHEAD_BYTES,
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
from .reads import PendingRead, ReadQueue
from .ready import ReadState
from .replication import Replication

AnswerRead = Callable[[ReadState], None]


class Leader:
    """Leadership of one term."""

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
        self.replication = Replication(config, term, log, outbox)
        self._config = config
        self._id = config.peer_id
        self._log = log
        self._history = history
        self._answer_read = answer_read
        # The end of the log at each of the last ticks, for the promotion of learners.
        self._log_ends = deque([log.last_index], maxlen=config.promotion_lag_ticks + 1)
        self._since_heartbeat = 0
        self._since_quorum_check = 0
        self._disk_was_at = log.durable_index
        self._disk_stuck_for = 0  # ticks of a stall of the own disk, while it lags the quorum
        self._transfer_elapsed = 0
        self._reads = ReadQueue()
        self._uncommitted: deque[tuple[int, int]] = deque()  # last index of a batch, its bytes
        self._uncommitted_bytes = 0
        self._committed_in_term = False
        self.replication.follow(history.current, recently_active=False)

    # -- state -----------------------------------------------------------------------------

    @property
    def _membership(self) -> Membership:
        return self._history.current

    @property
    def removed(self) -> bool:
        """Whether a membership without this leader as voter has committed (4.2.2)."""
        voters = self._membership.voters
        return self._id not in voters and self._history.index <= self._log.commit

    @property
    def must_hand_over(self) -> bool:
        """Whether another should lead: this one was removed, or its own disk stalls."""
        return self.removed or self._disk_stuck_for >= self._config.disk_patience_ticks

    # -- time ------------------------------------------------------------------------------

    def tick(self) -> bool:
        """One tick. False: this leader has lost its quorum and must step down."""
        self.replication.now += 1
        self._log_ends.append(self._log.last_index)
        self._since_heartbeat += 1
        self._since_quorum_check += 1
        if self._config.check_quorum and not self._still_has_quorum():
            return False
        self._watch_own_disk()
        self._tick_transfer()
        if self._since_heartbeat >= self._config.heartbeat_ticks:
            self.begin_round()
        return True

    def _still_has_quorum(self) -> bool:
        timeout = self._config.election_ticks
        age = min(self.replication.quorum_age(self._membership), self.replication.now)
        if self._config.prompt_step_down and age >= timeout:
            return False
        if self._since_quorum_check < timeout:
            return True
        self._since_quorum_check = 0
        return self.replication.quorum_was_active(self._membership)

    def _watch_own_disk(self) -> None:
        """The others commit without it (10.2.1), up to the limit of this leader's memory."""
        moved = self._log.durable_index != self._disk_was_at
        lags = self._log.durable_index < self._log.commit
        self._disk_stuck_for = self._disk_stuck_for + 1 if lags and not moved else 0
        self._disk_was_at = self._log.durable_index

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
        self._check_room(batch)
        return self._append([(EntryKind.NORMAL, data) for data in batch])

    def _check_accepting(self) -> None:
        if self.transferee != NO_PEER:
            raise ProposalDroppedError(f"leadership is being handed to peer {self.transferee}")
        if self._id not in self.replication.progress:
            raise ProposalDroppedError("this leader is being removed from the cell")

    def _check_room(self, batch: Sequence[bytes]) -> None:
        size, limit = sum(map(len, batch)), self._config.max_uncommitted_bytes
        if size > limit:
            raise EntryTooLargeError(
                f"a batch of {size} bytes exceeds max_uncommitted_bytes ({limit}); split it"
            )
        size += len(batch) * ENTRY_OVERHEAD_BYTES
        if self._uncommitted and self._uncommitted_bytes + size > limit:
            raise ProposalDroppedError(
                f"{self._uncommitted_bytes} bytes wait for commit, or for this leader's disk, and "
                f"{size} more exceed max_uncommitted_bytes ({limit}); retry later"
            )

    def _append(self, proposals: Sequence[tuple[EntryKind, bytes]]) -> int:
        first = self._log.last_index + 1
        entries = tuple(
            Entry(self.term, first + offset, kind, data)
            for offset, (kind, data) in enumerate(proposals)
        )
        self._log.append(entries)
        if entries:
            size = sum(map(entry_size, entries))
            self._uncommitted.append((entries[-1].index, size))
            self._uncommitted_bytes += size
        if self._history.append(entries):
            self._membership_changed()
        self.replication.broadcast()
        return entries[-1].index if entries else first - 1

    # -- membership ------------------------------------------------------------------------

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
        after = changed(self._membership, change)
        if change.kind is ChangeKind.ADD_VOTER:
            self._check_caught_up(change.peer)
        self._check_live_quorum(after, change)
        return self._append([(EntryKind.CONF_CHANGE, encode_membership(after, change.context))])

    def _check_caught_up(self, peer: PeerId) -> None:
        """4.2.1: a majority may wait for a voter that lags."""
        progress = self.replication.progress.get(peer)
        if progress is None:
            raise MembershipChangeError(
                f"peer {peer} is no learner; add it as one first, to let it catch up"
            )
        limit = self._config.promotion_lag_ticks
        if not self.replication.heard_since(peer, limit):
            raise MembershipChangeError(
                f"learner {peer} has not answered anything sent in the last {limit} ticks "
                "(promotion_lag_ticks); is it up?"
            )
        if progress.match < self._log_ends[0]:
            raise MembershipChangeError(
                f"learner {peer} has the log up to {progress.match} of {self._log.last_index}; it "
                f"must have what was there {len(self._log_ends) - 1} ticks ago, which ended at "
                f"{self._log_ends[0]} (promotion_lag_ticks is {limit}); retry later"
            )

    def _check_live_quorum(self, after: Membership, change: MembershipChange) -> None:
        """A change that the live peers cannot commit would stop the cell, perhaps for good."""
        limit = self._config.election_ticks - 1
        if self.replication.quorum_age(after) > limit:
            heard = [p for p in after.voters if self.replication.heard_since(p, limit)]
            raise MembershipChangeError(
                f"{change.kind.name} of peer {change.peer} would leave the voters {after.voters}, "
                f"and of them only {heard} answered within an election timeout: no majority"
            )

    def _membership_changed(self) -> None:
        self.replication.follow(self._membership, recently_active=True)
        if self.transferee not in self._membership.voters:
            self.transferee = NO_PEER
        self._maybe_commit()

    # -- responses -------------------------------------------------------------------------

    def on_append_response(self, message: Message) -> None:
        progress = self.replication.responder(message)
        if progress is None:
            return
        if message.reject:
            self.replication.rejected(message, progress)
        elif self.replication.accepted(message, progress):
            if self._maybe_commit():
                self.replication.broadcast()
            self.replication.go_on(message.source)
            if message.source == self.transferee:
                self._try_transfer()
        self._answer_confirmed_reads()

    def on_heartbeat_response(self, message: Message) -> None:
        progress = self.replication.responder(message)
        if progress is None:
            return
        self.replication.heartbeat_answered(message, progress)
        self._answer_confirmed_reads()

    # -- commitment ------------------------------------------------------------------------

    def persisted(self) -> None:
        """This peer's own disk caught up."""
        if self.replication.own_disk_caught_up() and self._maybe_commit():
            self.replication.broadcast()
        self._release()

    def _maybe_commit(self) -> bool:
        index = self.replication.quorum_match(self._membership)
        if index <= self._log.commit or self._log.term(index) != self.term:
            return False
        self._log.commit_to(index)
        self._committed_in_term = True
        self._release()
        return True

    def _release(self) -> None:
        """Free entries that are committed and on this peer's own disk."""
        done = min(self._log.commit, self._log.durable_index)
        while self._uncommitted and self._uncommitted[0][0] <= done:
            self._uncommitted_bytes -= self._uncommitted.popleft()[1]

    # -- reads -----------------------------------------------------------------------------

    def read(self, source: PeerId, context: bytes) -> bool:
        """Queue a read for the next round. False: too many are waiting."""
        return self._reads.ask(source, context)

    @property
    def wants_round(self) -> bool:
        return self._reads.wants_round and self._committed_in_term

    def begin_round(self) -> None:
        """A heartbeat to everyone; it serves the reads so far."""
        self._since_heartbeat = 0
        self.replication.begin_round()
        if self._committed_in_term:
            self._reads.place(self._log.commit, self.replication.round)
        self._answer_confirmed_reads()

    def _answer_confirmed_reads(self) -> None:
        if not len(self._reads):
            return
        for read in self._reads.confirm(self.replication.quorum_round(self._membership)):
            self._answer(read)

    def _answer(self, read: PendingRead) -> None:
        if read.source == self._id:
            self._answer_read(ReadState(read.index, read.context))
        else:
            self.replication.send(
                MessageKind.READ_INDEX_RESPONSE, read.source, index=read.index, context=read.context
            )

    # -- transfer --------------------------------------------------------------------------

    def transfer(self, to: PeerId) -> None:
        """Bring ``to`` up to date, then have it campaign at once (3.10)."""
        if to == self._id or to not in self._membership.voters:
            raise TransferError(f"peer {to} is not another voter of {self._membership}")
        if to == self.transferee:
            return
        self.transferee = to
        self._transfer_elapsed = 0
        if not self._try_transfer():
            self.replication.append_to(to)

    def _try_transfer(self) -> bool:
        if self.replication.progress[self.transferee].match != self._log.last_index:
            return False
        self.send_timeout_now(self.transferee)
        return True

    def send_timeout_now(self, to: PeerId) -> None:
        incarnation = self.replication.progress[to].incarnation
        self.replication.send(MessageKind.TIMEOUT_NOW, to, incarnation=incarnation)

    def most_advanced_voter(self) -> PeerId:
        """Another voter that has the whole log, or nobody."""
        for peer in self._membership.voters:
            if peer != self._id and self.replication.progress[peer].match == self._log.last_index:
                return peer
        return NO_PEER

    def check_invariants(self) -> None:
        members = tuple(self.replication.progress)
        if members != self._membership.peers:
            raise InvariantViolationError(
                f"replicating to {members}, members are {self._membership.peers}"
            )
        self.replication.check_invariants()
        if self._uncommitted_bytes != sum(size for _, size in self._uncommitted):
            raise InvariantViolationError("the sum of uncommitted bytes is wrong")
