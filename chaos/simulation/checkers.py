"""What Raft promises, watched from outside: the checker sees all peers and all disks at once.

Checked at every event, for what figure 3 of the paper and our store promise:

* election safety: one leader a term, with durable votes of a majority; no id votes twice in a term;
* nothing leaves before the disk: the term of a message, a vote, an acknowledgement is on it;
* commitment: what is committed first anywhere is on the disks of a majority;
* log matching, and state-machine safety for what is committed and for what is applied;
* leader completeness: a leader holds what was committed in earlier terms. The term that counts is
  the one in which the entry was *committed*, not the one it carries;
* membership: a peer goes by the newest one in its log, a leader changes it only after a commit of
  its own term, and leads no more once it has committed its removal;
* reads: a ReadIndex, or a read under the lease, is at least what was committed when it was asked;
* the lease: when a peer is elected no other peer's lease is valid on its own clock, even if that
  peer is frozen, and no other peer's count of ticks says so either;
* disks: what a restart reads is what was written, and the ledger's rows are the same on all peers
  that have applied the same;
* authors: whatever an engine proposes, no record of a daemon's is applied that no daemon wrote.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from chaos.simulation.options import Options
from ha_scheduler.ledger.authorship import AUTHORS, Author
from ha_scheduler.ledger.dump import dump
from ha_scheduler.ledger.encoding import decode
from ha_scheduler.ledger.records import TermStarted
from ha_scheduler.ledger.unfit import RejectedRecord
from ha_scheduler.raft.errors import CompactedError, RaftError
from ha_scheduler.raft.membership import decode_membership
from ha_scheduler.raft.messages import (
    NO_PEER,
    Entry,
    EntryKind,
    Membership,
    Message,
    MessageKind,
    ServerState,
)
from ha_scheduler.raft.ready import Ready

if TYPE_CHECKING:
    from chaos.simulation.peer import Process, SimPeer


class SafetyViolationError(AssertionError):
    """Something that must never happen did."""


class LivenessViolationError(AssertionError):
    """A healed cell makes no progress."""


class Checker:
    """The history so far, and what it forbids."""

    def __init__(self, options: Options, peers: dict[int, SimPeer], membership: Membership) -> None:
        self.max_committed = 0
        self.elections = 0
        self.reads_answered = 0
        self.lease_reads = 0
        self.applied = 0
        self.acknowledged = 0
        self.committed: dict[int, tuple[Entry, int]] = {}  # index → entry, term of its commit
        self.changes: dict[tuple[int, int], Membership] = {}  # index, term → proposed membership
        self._options = options
        self._first_membership = membership
        self._peers = peers
        self._leader_of_term: dict[int, int] = {}
        self._grants: dict[tuple[int, int], int] = {}  # voter, term → candidate
        self._entry_at: dict[tuple[int, int], tuple[Entry, int]] = {}  # → entry, previous term
        self._tables_at: dict[int, bytes] = {}
        self._reads: dict[bytes, int] = {}

    # -- a process ---------------------------------------------------------------------------

    def started(self, process: Process) -> None:
        """A process has opened its disk."""
        if self._options.control is None and not process.host.disk.damaged:
            difference = process.host.disk.shadow.difference(process.store)
            if difference:
                raise SafetyViolationError(f"after a restart of {process.id}: {difference}")
        process.known_commit = process.node.commit
        self._check_membership(process)

    def observe(self, process: Process) -> None:
        """Something happened on it."""
        node = process.node
        node.check_invariants()
        if node.role is ServerState.LEADER and node.term != process.known_lead:
            process.known_lead = node.term
            self._elected(process)
        if node.commit > process.known_commit:
            self._commit_moved(process)
            if node.role is ServerState.LEADER:
                self._check_removal(process)

    def ready(self, process: Process, ready: Ready) -> None:
        """Log matching for what is about to be written; answers to reads."""
        for entry in ready.entries:
            try:
                previous = process.node.entry_term(entry.index - 1)
            except CompactedError:
                continue
            known = self._entry_at.setdefault((entry.term, entry.index), (entry, previous))
            if known != (entry, previous):
                raise SafetyViolationError(f"two entries at {entry.index} of term {entry.term}")
            if entry.kind is EntryKind.CONF_CHANGE:
                place = entry.index, entry.term
                self._check_change(process, entry)
                self.changes.setdefault(place, decode_membership(entry.data)[0])
        if ready.entries:
            self._check_membership(process)
        for state in ready.read_states:
            self.reads_answered += 1
            self._check_read(state.context, state.index)

    # -- elections ---------------------------------------------------------------------------

    def sent(self, process: Process, message: Message) -> None:
        """A message leaves: its term, and what it says, must be on the disk."""
        shadow = process.host.disk.shadow
        asks = message.kind in (MessageKind.PRE_VOTE, MessageKind.PRE_VOTE_RESPONSE)
        if message.term > shadow.hard_state.term and not asks:
            raise SafetyViolationError(
                f"{process.id} sends {message} with {shadow.hard_state} on disk"
            )
        if message.reject:
            return
        if message.kind is MessageKind.VOTE_RESPONSE:
            self._vote(process.id, message.term, message.to)
            state = shadow.hard_state
            durable = (state.term, state.vote) == (message.term, message.to)
            if not durable and state.term <= message.term:
                raise SafetyViolationError(
                    f"{process.id} votes for {message.to} in {message.term} with {state} on disk"
                )
        elif message.kind is MessageKind.APPEND_RESPONSE and message.index > shadow.last:
            if message.term < shadow.hard_state.term:
                return  # one write replaced, in a newer term, what it made durable in this one
            raise SafetyViolationError(
                f"{process.id} acknowledges {message.index}, its disk ends at {shadow.last}"
            )

    def _vote(self, voter: int, term: int, candidate: int) -> None:
        if self._grants.setdefault((voter, term), candidate) != candidate:
            raise SafetyViolationError(
                f"{voter} votes for {self._grants[voter, term]} and {candidate} in term {term}"
            )

    def _elected(self, process: Process) -> None:
        node, own = process.node, process.id
        self.elections += 1
        if self._leader_of_term.setdefault(node.term, own) != own:
            other = self._leader_of_term[node.term]
            raise SafetyViolationError(f"{own} and {other} both lead term {node.term}")
        state = process.host.disk.shadow.hard_state
        if (state.term, state.vote) == (node.term, own):
            self._vote(own, node.term, own)
        voters = node.membership.voters
        votes = [v for v in voters if self._grants.get((v, node.term)) == own]
        if len(votes) * 2 <= len(voters):
            raise SafetyViolationError(
                f"{own} leads term {node.term} with the votes of {votes} among {voters}"
            )
        self._check_completeness(process)
        if self._options.leases_hold:
            self._check_leases(process)

    def _check_completeness(self, process: Process) -> None:
        node = process.node
        for index in range(node.first_index, self.max_committed + 1):
            entry, commit_term = self.committed[index]
            if commit_term < node.term and (
                index > node.last_index or node.entry_term(index) != entry.term
            ):
                raise SafetyViolationError(
                    f"leader {node.peer_id} of term {node.term} lacks entry {index}, "
                    f"committed in term {commit_term}"
                )

    def _check_leases(self, elected: Process) -> None:
        for peer in self._peers.values():
            other = peer.process
            if other is None or other.node.term >= elected.node.term:
                continue
            left = other.lease_until - peer.clock.now()
            if left > 0:
                raise SafetyViolationError(
                    f"{elected.id} is elected in {elected.node.term}, but the lease of {peer.id} "
                    f"in {other.node.term} is valid for {left:.3f} s more on its clock"
                )

    def lease_extended(self, process: Process) -> None:
        """The engine of ``process`` may act for a while: nobody else may lead a newer term."""
        newest = max(self._leader_of_term, default=0)
        if process.node.term >= newest or not self._options.leases_hold:
            return
        other = self._peers[self._leader_of_term[newest]].process
        leads = (
            other is not None
            and other.node.role is ServerState.LEADER
            and other.node.term == newest
        )
        if leads and process.lease_valid:
            raise SafetyViolationError(
                f"{process.id} gets a lease in {process.node.term}, but {newest} has a leader"
            )

    # -- commitment --------------------------------------------------------------------------

    def _commit_moved(self, process: Process) -> None:
        node = process.node
        if node.commit > self.max_committed:
            self._first_commit(process)
        low = max(process.known_commit + 1, node.first_index)
        for index in range(low, node.commit + 1):
            if node.entry_term(index) != self.committed[index][0].term:
                raise SafetyViolationError(
                    f"{process.id} takes entry {index} of term {node.entry_term(index)} for "
                    f"committed, but that of term {self.committed[index][0].term} is"
                )
        process.known_commit = node.commit

    def _first_commit(self, process: Process) -> None:
        """Nobody knew yet that these are committed."""
        node, voters = process.node, process.node.membership.voters
        for index in range(self.max_committed + 1, node.commit + 1):
            try:
                (entry,) = node._core.log.entries(index, index + 1, 1)
            except RaftError as error:
                raise SafetyViolationError(f"{index} is committed and cannot be read") from error
            self.committed[index] = entry, node.term
        index, term = node.commit, self.committed[node.commit][0].term
        holders = [v for v in voters if self._peers[v].disk.shadow.holds(index, term)]
        if len(holders) * 2 <= len(voters):
            raise SafetyViolationError(
                f"{process.id} commits {index} of term {term} in term {node.term}, but only "
                f"{holders} of {voters} hold it"
            )
        self.max_committed = node.commit

    def _check_membership(self, process: Process) -> None:
        """A peer goes by the newest membership in its log, committed or not (thesis 4.1)."""
        node = process.node
        newest, membership = 0, node.membership
        for (index, term), after in self.changes.items():
            in_log = max(node.first_index, newest + 1) <= index <= node.last_index
            if in_log and node.entry_term(index) == term:
                newest, membership = index, after
        if node.membership != membership:
            raise SafetyViolationError(
                f"{process.id} goes by {node.membership}, but its log has {membership} at {newest}"
            )

    def _check_change(self, process: Process, entry: Entry) -> None:
        """Its leader has committed in its term before it changes the membership (4.1, erratum)."""
        node = process.node
        if node.role is not ServerState.LEADER or entry.term != node.term:
            return
        if node.commit == 0 or self.committed[node.commit][0].term != node.term:
            raise SafetyViolationError(
                f"{process.id} changes the membership at {entry.index} before it has committed "
                f"in term {node.term}"
            )

    def _check_removal(self, process: Process) -> None:
        """A leader that has committed its own removal leads no more (thesis 4.2.2)."""
        node = process.node
        if process.id in node.membership.voters:
            return
        newest, membership = self._committed_membership(node.commit)
        if newest and process.id not in membership.voters:
            raise SafetyViolationError(
                f"{process.id} leads, and has committed at {newest} that the voters are "
                f"{membership.voters}"
            )

    def _committed_membership(self, commit: int) -> tuple[int, Membership]:
        """The newest membership up to ``commit``, and where it stands."""
        newest, last = 0, self._first_membership
        for (index, term), membership in self.changes.items():
            if newest < index <= commit and self.committed[index][0].term == term:
                newest, last = index, membership
        return newest, last

    def memberships_in_play(self) -> list[Membership]:
        """What is, or may yet become, the membership: the last committed one and newer ones."""
        newer = [m for (index, _), m in self.changes.items() if index > self.max_committed]
        return [*newer, self._committed_membership(self.max_committed)[1]]

    # -- applying ----------------------------------------------------------------------------

    def will_apply(self, process: Process, entries: tuple[Entry, ...]) -> None:
        """The engine of ``process`` is fed with these."""
        self.observe(process)
        for entry in entries:
            if entry.index != process.fed + 1:
                raise SafetyViolationError(f"{process.id} applies {entry.index} out of order")
            if self.committed[entry.index][0] != entry:
                raise SafetyViolationError(f"{process.id} would apply another {entry.index}")
            self._check_author(process, entry)
            own = process.host.disk.shadow.holds(entry.index, entry.term)
            if not own and not self._options.apply_unpersisted:
                raise SafetyViolationError(
                    f"{process.id} applies {entry.index} before its own disk"
                )
            process.fed = entry.index
            self.applied += 1

    def _check_author(self, process: Process, entry: Entry) -> None:
        """Nothing of a daemon's was written by an engine: here no daemon names a peer."""
        if entry.kind is not EntryKind.NORMAL or not entry.data:
            return
        try:
            record = decode(entry.data)
        except RejectedRecord:
            return  # no engine gets it that far, but to apply it would do no harm
        own = isinstance(record, TermStarted) and record.term == entry.term
        if AUTHORS[type(record)] is not Author.ENGINE and not own:
            raise SafetyViolationError(f"{process.id} applies what no daemon wrote: {record}")

    def tables(self, process: Process) -> list[bytes]:
        """The ledger of a peer, compared with those of the others. Raises ``CorruptLedger``."""
        with process.store.view() as view:
            chunks, index = list(dump(view.tables)), view.applied
        digest = blake2b(b"".join(chunks), digest_size=16).digest()
        if self._tables_at.setdefault(index, digest) != digest:
            raise SafetyViolationError(f"the ledger of {process.id} differs at {index}")
        return chunks

    # -- reads -------------------------------------------------------------------------------

    def read_asked(self) -> bytes:
        """A read begins: its context."""
        context = b"r%d" % len(self._reads)
        self._reads[context] = self.max_committed
        return context

    def _check_read(self, context: bytes, index: int) -> None:
        if index < self._reads[context]:
            raise SafetyViolationError(
                f"read {context!r} got {index}, but {self._reads[context]} was already committed"
            )

    def read_under_lease(self, process: Process) -> None:
        """A leader answers from what it knows is committed."""
        node = process.node
        if node.commit == 0 or node.leader == NO_PEER:
            return
        if self.committed[node.commit][1] == node.term and process.lease_valid:
            self.lease_reads += 1
            if node.commit < self.max_committed:
                raise SafetyViolationError(
                    f"{process.id} reads {node.commit} under its lease in {node.term}, but "
                    f"{self.max_committed} is committed"
                )
