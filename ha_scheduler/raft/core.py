"""Elections, and what followers do with a leader's messages: the state changes of one peer.

The guarantee: at most one leader a term (paper 5.2), by this ordering: a term or a vote changes
here, the next `Ready` carries it to the disk, and only then may a message of that term leave, or
the candidate's own vote count.

The leader's lease rests on a second promise: a peer that heard a leader grants nobody a vote for
``election_ticks``. It binds the peer in every state and term: a change of term by a stray message
leaves it, and a restart, which the leader does not see, renews it.

Pure: no waits, no clock, and randomness only from the injected source.

::

              timeout                 quorum would vote          quorum votes
    FOLLOWER ---------> PRE_CANDIDATE -----------------> CANDIDATE ----------> LEADER
       ^                      |                              |                    |
       +---- higher term, a leader of this term, or no quorum <--------------------+
"""

from __future__ import annotations

import random

from .config import HIGHEST_PRIORITY, UNELECTABLE_PATIENCE, Config
from .errors import InvariantViolationError, LogCorruptionError, MalformedMessageError
from .leader import Leader
from .log import RaftLog
from .membership import MembershipHistory
from .messages import (
    FROM_LEADER,
    MAX_TERM,
    NO_PEER,
    Membership,
    Message,
    MessageKind,
    PeerId,
    ServerState,
    SnapshotMeta,
)
from .outbox import Outbox
from .quorum import VoteResult, vote_result
from .ready import ReadState
from .storage import LogReader
from .terms import PATIENCE, TermLimit

RESPONSE_TO = {
    MessageKind.VOTE: MessageKind.VOTE_RESPONSE,
    MessageKind.PRE_VOTE: MessageKind.PRE_VOTE_RESPONSE,
}


class Core:
    """One peer's Raft state. `RawNode` wraps it and assembles each `Ready`."""

    def __init__(self, config: Config, stable: LogReader, rng: random.Random, applied: int) -> None:
        config.validate()
        self.config = config
        self.id = config.peer_id
        self.read_states: list[ReadState] = []
        self.electable = True
        self.stands = True
        self.priority = config.priority
        hard_state, membership = stable.initial_state()
        self.outbox = Outbox(hard_state.term)
        self.log = RaftLog(
            stable,
            commit=hard_state.commit,
            applied=applied,
            apply_unpersisted=config.apply_unpersisted,
            max_applying_bytes=config.max_applying_bytes,
        )
        self.term = hard_state.term
        if self.term > MAX_TERM:
            raise LogCorruptionError(f"the disk is of term {self.term}; the last one is {MAX_TERM}")
        self.vote = hard_state.vote
        self.limit = TermLimit(config, self.term)
        self.history = self._load_history(membership)
        self.role = ServerState.FOLLOWER
        self.leader: PeerId = NO_PEER
        self.lead: Leader | None = None
        self._rng = rng
        self._votes: dict[PeerId, bool] = {}
        self._elapsed = 0
        self._without_leader = 0
        # Ticks left of the promise to a leader. We may have heard one right before a crash; only
        # a peer that never had a term certainly has not.
        self._promised = config.election_ticks if hard_state.term > 0 else 0
        self._leader_tick = 0  # newest tick of the leader of this term that we have seen
        self.forced_term = 0  # the last in which this peer campaigned at a leader's word
        self._timeout = self._draw_timeout()
        self._incarnation = rng.getrandbits(62) + 1  # this life of the peer, in its answers

    def _load_history(self, membership: Membership) -> MembershipHistory:
        """Configuration entries after the applied index are in force too (4.1)."""
        history = MembershipHistory(self.log.applied, membership)
        start, end = self.log.applied + 1, self.log.last_index + 1
        while start < end:
            batch = self.log.entries(start, end, self.config.max_append_bytes)
            history.append(batch)
            start = batch[-1].index + 1
        history.forget(self.log.commit)
        return history

    def _draw_timeout(self) -> int:
        return self._rng.randrange(self.config.election_ticks, 2 * self.config.election_ticks)

    @property
    def promotable(self) -> bool:
        """Whether this peer may campaign; also one that an *uncommitted* change removes (4.2.2)."""
        if self.log.has_pending_snapshot or self.term >= MAX_TERM:
            return False
        committed = self.history.at(self.log.commit)
        return self.id in self.history.current.voters or self.id in committed.voters

    # -- role changes ----------------------------------------------------------------------

    def _reset(self, term: int, role: ServerState, leader: PeerId) -> None:
        if term != self.term:
            self.term = term
            self.vote = NO_PEER
            self._leader_tick = 0
            self.limit.taken(term)
        if role is not ServerState.FOLLOWER:
            self._promised = 0  # by timeout it has run out; campaigning otherwise renounces it
        self.role = role
        self.leader = leader
        self.lead = None
        self._votes = {}
        self._elapsed = 0
        self._timeout = self._draw_timeout()
        if leader != NO_PEER:
            self._without_leader = 0

    def become_follower(self, term: int, leader: PeerId) -> None:
        self._reset(term, ServerState.FOLLOWER, leader)

    def campaign(self, *, force: bool = False) -> None:
        """Become a candidate; ``force`` (a transfer) skips the pre-vote and the lease."""
        if self.role is ServerState.LEADER or not self.promotable:
            return
        if self.config.pre_vote and not force:
            self._start_pre_vote()
        else:
            self._start_election(force=force)

    def _start_pre_vote(self) -> None:
        """Ask for votes without a new term: a peer that cannot win disturbs nobody (9.6)."""
        self._reset(self.term, ServerState.PRE_CANDIDATE, NO_PEER)
        self._votes[self.id] = True
        self._request_votes(MessageKind.PRE_VOTE, self.term + 1, force=False)
        self._count_votes()

    def _start_election(self, *, force: bool) -> None:
        self._reset(self.term + 1, ServerState.CANDIDATE, NO_PEER)
        if force:
            self.forced_term = self.term
        self.vote = self.id
        self._request_votes(MessageKind.VOTE, self.term, force=force)

    def _request_votes(self, kind: MessageKind, term: int, *, force: bool) -> None:
        for peer in self.history.current.voters:
            if peer != self.id:
                log_term, index = self.log.last_term, self.log.last_index
                self._send(kind, peer, term, log_term=log_term, index=index, force=force)

    def _send(self, kind: MessageKind, to: PeerId, term: int, **fields: object) -> None:
        message = Message(kind, to, self.id, term, **fields)  # type: ignore[arg-type]
        self.outbox.send(message)

    def term_persisted(self, term: int) -> None:
        """This term and our vote in it are durable. A vote for ourselves counts now."""
        self.outbox.durable_term = term
        if self.role is ServerState.CANDIDATE and self.term == term:
            self._votes[self.id] = True
            self._count_votes()

    def _count_votes(self) -> None:
        result = vote_result(self.history.current.voters, self._votes)
        if result is VoteResult.LOST:
            self.become_follower(self.term, NO_PEER)
        elif result is VoteResult.WON and self.role is ServerState.PRE_CANDIDATE:
            self._start_election(force=False)
        elif result is VoteResult.WON:
            self._become_leader()

    def _become_leader(self) -> None:
        self._reset(self.term, ServerState.LEADER, self.id)
        self.limit.forget()
        self.lead = Leader(
            self.config, self.term, self.log, self.history, self.outbox, self.read_states.append
        )
        self.lead.start()

    # -- time ------------------------------------------------------------------------------

    def tick(self) -> None:
        self.limit.tick(self.term)
        if self.lead is not None:
            if not self.lead.tick():
                self.become_follower(self.term, NO_PEER)
            self._leave_if_due()
            return
        self._elapsed += 1
        self._without_leader += 1
        self._promised = max(0, self._promised - 1)
        if self._elapsed < self._timeout:
            return
        may = self.promotable and self.stands
        if may and self._without_leader >= self._timeout + self._deference:
            self.campaign()
        else:
            self.leader = NO_PEER  # do not reset the timer: we must grant votes to others

    @property
    def _deference(self) -> int:
        """Ticks by which this peer stands later than one that should lead.

        Whole election timeouts, more than the drawn timeouts differ by: peers of each claim have
        time to win before the next stand.
        """
        timeouts = HIGHEST_PRIORITY - self.priority
        if not self.electable:
            timeouts += UNELECTABLE_PATIENCE
        return timeouts * self.config.election_ticks

    # -- messages --------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        if message.to != self.id:
            raise MalformedMessageError(f"message for peer {message.to} reached {self.id}")
        self.limit.hear(message, self.history.current)
        if message.term <= self.term:
            self.limit.believe(message.source)
        if message.term > self.term:
            if not self._enter_higher_term(message):
                return
        elif message.term < self.term:
            self._answer_lower_term(message)
            return
        if message.kind in RESPONSE_TO:
            self._on_vote_request(message)
        elif message.kind in FROM_LEADER:
            self._on_leader_message(message)
        else:
            self._on_other(message)
        self._leave_if_due()

    def _enter_higher_term(self, message: Message) -> bool:
        """Returns whether the message is to be handled further."""
        kind = message.kind
        if kind in RESPONSE_TO and self._bound and not message.force:
            return False  # 4.2.3: no vote while we hear a leader
        if message.term > self.limit.limit(self.history.current):
            self._doubt(message)
            return False
        if kind is MessageKind.PRE_VOTE:
            return True  # a question about a term nobody is in yet
        if kind is MessageKind.PRE_VOTE_RESPONSE and not message.reject:
            return self.role is ServerState.PRE_CANDIDATE and message.term == self.term + 1
        self.become_follower(message.term, message.source if kind in FROM_LEADER else NO_PEER)
        return True

    def _doubt(self, message: Message) -> None:
        """A term far beyond ours: ask the voters, and in the end go towards it (``terms.py``)."""
        if self.limit.doubt(message):
            self._request_votes(MessageKind.PRE_VOTE, self.term + 1, force=False)
        lost = self._without_leader >= PATIENCE * self.config.election_ticks
        step = self.limit.limit(self.history.current)
        known = message.source in self.history.current.voters
        if lost and known and step > self.term and self.limit.stays(message.source):
            self.become_follower(step, NO_PEER)

    @property
    def _bound(self) -> bool:
        """Whether the promise to a leader, possibly ourselves, forbids a vote."""
        return self.config.check_quorum and (self._promised > 0 or self.role is ServerState.LEADER)

    def _answer_lower_term(self, message: Message) -> None:
        """Answer a deposed leader or a stale candidate with our term."""
        if message.kind in (MessageKind.HEARTBEAT, MessageKind.APPEND):
            self._send(MessageKind.APPEND_RESPONSE, message.source, self.term)
        elif message.kind is MessageKind.PRE_VOTE:
            self._send(MessageKind.PRE_VOTE_RESPONSE, message.source, self.term, reject=True)

    def _on_vote_request(self, message: Message) -> None:
        """At most one vote a term, and only for a log as complete as ours (3.6.1)."""
        pre_vote = message.kind is MessageKind.PRE_VOTE
        bound = self._bound and not message.force
        free = self.vote == NO_PEER and self.leader == NO_PEER and not bound
        may = self.vote == message.source or free or (pre_vote and message.term > self.term)
        if not may or not self.log.is_up_to_date(message.index, message.log_term):
            self._send(RESPONSE_TO[message.kind], message.source, self.term, reject=True)
            return
        if not pre_vote:
            self.vote = message.source
            self._elapsed = 0
        self._send(RESPONSE_TO[message.kind], message.source, message.term)

    def _on_leader_message(self, message: Message) -> None:
        if self.role is ServerState.LEADER:
            raise MalformedMessageError(
                f"peer {message.source} claims to lead term {message.term}, which this peer leads"
            )
        if self.role is not ServerState.FOLLOWER:
            self.become_follower(self.term, message.source)
        if self.leader not in (NO_PEER, message.source):
            raise MalformedMessageError(
                f"peers {self.leader} and {message.source} both claim to lead term {self.term}"
            )
        self.leader = message.source
        self.limit.forget()
        self._elapsed = self._without_leader = 0
        self._promised = self.config.election_ticks
        self._leader_tick = max(self._leader_tick, message.tick)
        if message.kind is MessageKind.APPEND:
            self._on_append(message)
        elif message.kind is MessageKind.HEARTBEAT:
            self._on_heartbeat(message)
        else:
            self._on_snapshot(message)

    def _on_other(self, message: Message) -> None:
        kind = message.kind
        if kind in (MessageKind.VOTE_RESPONSE, MessageKind.PRE_VOTE_RESPONSE):
            self._on_vote_response(message)
        elif kind is MessageKind.TIMEOUT_NOW:
            self._on_timeout_now(message)
        elif kind is MessageKind.READ_INDEX_RESPONSE:
            self.read_states.append(ReadState(message.index, message.context))
        elif self.lead is None:
            return
        elif kind is MessageKind.APPEND_RESPONSE:
            self.lead.on_append_response(message)
        elif kind is MessageKind.HEARTBEAT_RESPONSE:
            self.lead.on_heartbeat_response(message)
        elif kind is MessageKind.READ_INDEX:
            self.lead.read(message.source, message.context)

    def _on_vote_response(self, message: Message) -> None:
        waiting_for = {
            ServerState.CANDIDATE: MessageKind.VOTE_RESPONSE,
            ServerState.PRE_CANDIDATE: MessageKind.PRE_VOTE_RESPONSE,
        }
        if waiting_for.get(self.role) is not message.kind:
            return
        if (
            self.role is ServerState.PRE_CANDIDATE
            and not message.reject
            and message.term == self.term
        ):
            return  # a grant for a term that is over
        self._votes.setdefault(message.source, not message.reject)
        self._count_votes()

    def _on_timeout_now(self, message: Message) -> None:
        """A transfer to us (3.10); a stale one must not break the leader's lease."""
        current = message.source == self.leader and message.tick >= self._leader_tick
        for_this_life = message.incarnation == self._incarnation
        if self.role is ServerState.FOLLOWER and current and for_this_life and self.electable:
            self.campaign(force=True)

    # -- the log of a follower -------------------------------------------------------------

    def _on_append(self, message: Message) -> None:
        log = self.log
        if message.index < log.commit:
            self._acknowledge(message, log.commit)
        elif not log.matches(message.index, message.log_term):
            self._reject_append(message)
        else:
            self._accept_entries(message)
            last_new = message.index + len(message.entries)
            log.commit_to(min(message.commit, last_new))
            self._acknowledge(message, last_new)

    def _accept_entries(self, message: Message) -> None:
        """Append new entries. Known entries stay: they may be acknowledged."""
        new = message.entries[self.log.conflict(message.entries) :]
        if not new:
            return
        self.history.truncate(new[0].index)
        self.log.append(new)
        self.history.append(new)

    def _answer(self, message: Message, kind: MessageKind, **fields: object) -> None:
        """Answer the leader, with the stamp of its message and our incarnation."""
        fields |= {"round": message.round, "tick": message.tick, "incarnation": self._incarnation}
        self._send(kind, message.source, self.term, **fields)

    def _acknowledge(self, message: Message, index: int) -> None:
        self._answer(message, MessageKind.APPEND_RESPONSE, index=index)

    def _reject_append(self, message: Message) -> None:
        start = min(message.index, self.log.last_index)
        hint, hint_term = self.log.last_index_not_after_term(start, message.log_term)
        self._answer(
            message,
            MessageKind.APPEND_RESPONSE,
            index=message.index,
            reject=True,
            reject_hint=hint,
            log_term=hint_term,
        )

    def _on_heartbeat(self, message: Message) -> None:
        self.log.commit_to(message.commit)
        self._answer(message, MessageKind.HEARTBEAT_RESPONSE)

    def _on_snapshot(self, message: Message) -> None:
        snapshot = message.snapshot
        if snapshot is None:
            raise MalformedMessageError("a SNAPSHOT message without snapshot")
        self._acknowledge(message, self._restore(snapshot))

    def _restore(self, snapshot: SnapshotMeta) -> int:
        """Take the snapshot if it is new. Returns the index that certainly matches."""
        if snapshot.index <= self.log.commit:
            return self.log.commit
        if self.log.matches(snapshot.index, snapshot.term):
            self.log.commit_to(snapshot.index)
            return self.log.commit
        self.log.restore(snapshot)
        self.history.restart(snapshot.index, snapshot.membership)
        return snapshot.index

    # -- the end of leadership -------------------------------------------------------------

    def _leave_if_due(self) -> None:
        """A leader that committed its own removal (4.2.2), or whose disk stalls, steps down."""
        if self.lead is None or not self.lead.must_hand_over:
            return
        heir = self.lead.most_advanced_voter()
        if heir != NO_PEER:
            self.lead.send_timeout_now(heir)
        self.become_follower(self.term, NO_PEER)

    def persisted(self) -> None:
        """The durable index may have moved."""
        if self.lead is not None:
            self.lead.persisted()
            self._leave_if_due()

    def forget_old_memberships(self) -> None:
        self.history.forget(self.log.commit)

    def check_invariants(self) -> None:
        self.log.check_invariants()
        if (self.role is ServerState.LEADER) != (self.lead is not None):
            raise InvariantViolationError(f"role {self.role} and leader state disagree")
        if self.lead is not None:
            if self.leader != self.id or self.lead.term != self.term:
                raise InvariantViolationError("this leader believes in another leader or term")
            self.lead.check_invariants()
        if self.role is ServerState.CANDIDATE and self.vote != self.id:
            raise InvariantViolationError("a candidate that did not vote for itself")
        if set(self.history.current.voters) & set(self.history.current.learners):
            raise InvariantViolationError(f"a voter is a learner: {self.history.current}")
