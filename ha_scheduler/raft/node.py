"""The interface of the core: calls go in, one `Ready` after another comes out.

The guarantee: everything the core wants done is in exactly one `Ready`, in order, and taking one
never waits for an earlier one to complete. So the driver can keep several writes in flight (group
commit); numbers tell the core which are durable.

A driver's loop, with a disk thread::

    node.step(message) / node.tick() / node.propose(data)
    while node.has_ready():
        ready = node.ready()
        send(ready.messages); queue_write(ready); apply(ready.committed)
    # later, from the disk: node.persisted(ready.number); send(ready.messages_after_persist)
    # later, from the ledger: node.applied_to(index)

After a stall deliver waiting messages before waiting ticks: a burst of ticks without the responses
makes a leader step down for nothing. Not thread-safe; one owner.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

from .config import Config
from .core import Core
from .errors import CallerError, InvariantViolationError, NotLeaderError
from .leader import Leader
from .membership import MembershipChange
from .messages import (
    MAX_CONTEXT_BYTES,
    NO_PEER,
    HardState,
    Membership,
    Message,
    MessageKind,
    PeerId,
    ServerState,
)
from .progress import ProgressView
from .ready import ReadState, Ready, SoftState
from .storage import LogReader


class RawNode:
    """One peer of a replicated log, without any I/O."""

    def __init__(
        self, config: Config, log: LogReader, rng: random.Random, applied: int = 0
    ) -> None:
        """``log``: the durable log, with the membership in force at ``applied``."""
        self._core = Core(config, log, rng, applied)
        self._number = 0
        self._persisted_number = 0
        self._terms: deque[tuple[int, int]] = deque()  # in flight to the disk: number, term
        self._handed_hard_state = self._hard_state()
        self._handed_soft_state = self._soft_state()

    # -- state -----------------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        return self._core.id

    @property
    def term(self) -> int:
        return self._core.term

    @property
    def role(self) -> ServerState:
        return self._core.role

    @property
    def leader(self) -> PeerId:
        """The leader of this term, 0 if unknown."""
        return self._core.leader

    @property
    def commit(self) -> int:
        return self._core.log.commit

    @property
    def applied(self) -> int:
        return self._core.log.applied

    @property
    def first_index(self) -> int:
        return self._core.log.first_index

    @property
    def last_index(self) -> int:
        return self._core.log.last_index

    @property
    def durable_index(self) -> int:
        """The index up to which the log is on this peer's own disk."""
        return self._core.log.durable_index

    @property
    def membership(self) -> Membership:
        """The newest membership of the log, committed or not: the one in force (4.1)."""
        return self._core.history.current

    @property
    def transferring_to(self) -> PeerId:
        return self._core.lead.transferee if self._core.lead is not None else NO_PEER

    @property
    def handed_over(self) -> bool:
        """Whether this peer leads because its predecessor, which led until then, told it to (3.10).

        Without that its voters have heard no leader for ``election_ticks``.
        """
        core = self._core
        return core.role is ServerState.LEADER and core.forced_term == core.term

    @property
    def doubted(self) -> dict[PeerId, int]:
        """Who claims a term that is too far beyond ours to be believed (``terms.py``)."""
        return {peer: claim.term for peer, claim in self._core.limit.doubted.items()}

    @property
    def electable(self) -> bool:
        """Whether this peer should lead. If not, it votes, declines a transfer, and stands after
        all other peers (`UNELECTABLE_PATIENCE`)."""
        return self._core.electable

    @electable.setter
    def electable(self, value: bool) -> None:
        self._core.electable = value

    @property
    def priority(self) -> int:
        """As ``Config.priority``; it may change at any time."""
        return self._core.priority

    @priority.setter
    def priority(self, value: int) -> None:
        self._core.priority = value

    @property
    def stands(self) -> bool:
        """Whether this peer campaigns by itself when it hears no leader. One that does not votes,
        and takes a transfer if it is electable."""
        return self._core.stands

    @stands.setter
    def stands(self, value: bool) -> None:
        self._core.stands = value

    def progress(self) -> tuple[ProgressView, ...]:
        """The leader's view of each member; empty on other peers."""
        if self._core.lead is None:
            return ()
        learners = self.membership.learners
        return tuple(
            progress.view(peer, learner=peer in learners)
            for peer, progress in self._core.lead.replication.progress.items()
        )

    def entry_term(self, index: int) -> int:
        """Term of an entry. Raises `CompactedError` or `UnavailableError`."""
        return self._core.log.term(index)

    # -- input -----------------------------------------------------------------------------

    def tick(self) -> None:
        self._core.tick()

    def step(self, message: Message) -> None:
        """Take in a message. Raises `PeerError` or `LogCorruptionError`; see errors."""
        self._core.step(message)

    def propose(self, data: bytes) -> int:
        """Append to the log. The proposal has committed if its entry commits in the same term."""
        return self._leader().propose((data,))

    def propose_batch(self, batch: Sequence[bytes]) -> range:
        """Append several entries, all or none, with one message to each follower."""
        last = self._leader().propose(batch)
        return range(last - len(batch) + 1, last + 1)

    def propose_membership(self, change: MembershipChange) -> int:
        """Change the membership by one peer; in force at once, reversible until committed."""
        return self._leader().propose_change(change)

    def campaign(self) -> None:
        """Start an election now (with a pre-vote, if so configured).

        It breaks this peer's promise to a leader, and so that leader's lease: only for a leader
        known to be dead. To move leadership, transfer it.
        """
        self._core.campaign()

    def transfer_leadership(self, to: PeerId) -> None:
        """Transfer leadership to a voter. Proposals are refused until its end or timeout."""
        self._leader().transfer(to)

    def step_down(self) -> None:
        """Stop leading at once. Another peer leads after an election timeout."""
        if self._core.lead is not None:
            self._core.become_follower(self.term, NO_PEER)

    def read_index(self, context: bytes) -> None:
        """Request an index that makes a read linearizable; the answer is a `ReadState`.

        Use a ``context`` once, also over restarts: a late answer to an earlier read would be taken
        for this one's. A follower asks the leader, and its question may be lost: ask again after a
        timeout. Raises `NotLeaderError` if there is no leader to ask.
        """
        if len(context) > MAX_CONTEXT_BYTES:
            raise CallerError(f"a read context has at most {MAX_CONTEXT_BYTES} bytes")
        if self._core.lead is not None:
            if not self._core.lead.read(self.peer_id, context):
                raise CallerError("too many reads are waiting; retry later")
            return
        if self.leader == NO_PEER:
            raise NotLeaderError(NO_PEER)
        self._core.outbox.send(
            Message(MessageKind.READ_INDEX, self.leader, self.peer_id, self.term, context=context)
        )

    def report_snapshot(self, peer: PeerId, ok: bool) -> None:
        """The end of a snapshot to ``peer``. Must be called: the peer is sent nothing before."""
        if self._core.lead is not None:
            self._core.lead.replication.report_snapshot(peer, ok)

    def report_unreachable(self, peer: PeerId) -> None:
        """Messages to ``peer`` were lost (its connection broke)."""
        if self._core.lead is not None:
            self._core.lead.replication.report_unreachable(peer)

    def _leader(self) -> Leader:
        if self._core.lead is None:
            raise NotLeaderError(self.leader)
        return self._core.lead

    # -- output ----------------------------------------------------------------------------

    def has_ready(self) -> bool:
        core = self._core
        return bool(
            core.outbox
            or core.log.has_write
            or core.log.has_committed
            or core.read_states
            or (core.lead is not None and core.lead.wants_round)
            or self._hard_state_changed()
            or self._soft_state_changed()
        )

    def ready(self) -> Ready:
        """Take the next Ready. It must be carried out."""
        core = self._core
        if core.lead is not None and core.lead.wants_round:
            core.lead.begin_round()
        self._number += 1
        hard_state, must_sync = self._take_hard_state()
        snapshot, entries = core.log.take_write(self._number)
        committed = core.log.take_committed() if core.log.has_committed else ()
        messages, after_persist = core.outbox.take()
        core.forget_old_memberships()
        return Ready(
            number=self._number,
            hard_state=hard_state,
            entries=entries,
            snapshot=snapshot,
            messages=messages,
            messages_after_persist=after_persist,
            committed=committed,
            soft_state=self._take_soft_state(),
            read_states=self._take_read_states(),
            must_sync=bool(entries) or snapshot is not None or must_sync,
        )

    def _hard_state(self) -> HardState:
        return HardState(self._core.term, self._core.vote, self._core.log.commit)

    def _soft_state(self) -> SoftState:
        return SoftState(self._core.role, self._core.leader, self._core.term)

    def _hard_state_changed(self) -> bool:
        core, before = self._core, self._handed_hard_state
        return (
            core.log.commit != before.commit or core.term != before.term or core.vote != before.vote
        )

    def _soft_state_changed(self) -> bool:
        core, before = self._core, self._handed_soft_state
        return (
            core.role is not before.role or core.leader != before.leader or core.term != before.term
        )

    def _take_hard_state(self) -> tuple[HardState | None, bool]:
        """The hard state if it changed, and whether more than the commit index did."""
        if not self._hard_state_changed():
            return None, False
        now, before = self._hard_state(), self._handed_hard_state
        self._handed_hard_state = now
        must_sync = (now.term, now.vote) != (before.term, before.vote)
        if must_sync:
            self._terms.append((self._number, now.term))
        return now, must_sync

    def _take_soft_state(self) -> SoftState | None:
        if not self._soft_state_changed():
            return None
        self._handed_soft_state = self._soft_state()
        return self._handed_soft_state

    def _take_read_states(self) -> tuple[ReadState, ...]:
        if not self._core.read_states:
            return ()
        taken = tuple(self._core.read_states)
        self._core.read_states.clear()
        return taken

    def persisted(self, number: int) -> None:
        """Every Ready up to this number is durable."""
        if number > self._number:
            raise InvariantViolationError(
                f"the driver persisted Ready {number}, but took only {self._number}"
            )
        if number <= self._persisted_number:
            return
        self._persisted_number = number
        self._core.log.persisted(number)
        self._core.persisted()
        while self._terms and self._terms[0][0] <= number:
            self._core.term_persisted(self._terms.popleft()[1])

    def applied_to(self, index: int) -> None:
        """Committed entries up to ``index`` have been applied."""
        self._core.log.applied_to(index)

    def check_invariants(self) -> None:
        """Raises `InvariantViolationError` if the core's state is impossible. Cheap."""
        self._core.check_invariants()
