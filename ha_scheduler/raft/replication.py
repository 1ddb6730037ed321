"""A leader's replication to its followers, for one term.

The guarantee: an answer counts only for what it answers. It echoes the round and tick of the
leader's message, so a late answer proves old contact only, and one to messages from before a peer
was removed and added again proves nothing. The window (`Inflights`) bounds what is unanswered.

Commitment is in leader.py.
"""

from __future__ import annotations

from .config import Config
from .errors import CompactedError
from .log import RaftLog
from .messages import Entry, Membership, Message, MessageKind, PeerId, entry_size
from .outbox import Outbox
from .progress import Inflights, Progress, ProgressState
from .quorum import agreed_value


class Replication:
    """Progress of all members, the leader's own disk among them, and the messages to them."""

    def __init__(self, config: Config, term: int, log: RaftLog, outbox: Outbox) -> None:
        self.progress: dict[PeerId, Progress] = {}
        self.now = 0  # ticks since the election
        self.round = 1  # of heartbeats; 0 answers nothing of this term
        self._term = term
        self._config = config
        self._id = config.peer_id
        self._log = log
        self._outbox = outbox

    # -- members ---------------------------------------------------------------------------

    def follow(self, membership: Membership, *, recently_active: bool) -> None:
        """Replicate to the members, and to nobody else. Keeps the order sorted."""
        if self.progress and set(membership.peers) - self.progress.keys():
            self.round += 1  # answers to earlier rounds do not count for a peer that joins now
        self.progress = {
            peer: self.progress.get(peer) or self._new_progress(peer, recently_active)
            for peer in membership.peers
        }

    def _new_progress(self, peer: PeerId, recently_active: bool) -> Progress:
        config = self._config
        window = Inflights(config.max_inflight_messages, config.max_inflight_bytes)
        progress = Progress(self._log.last_index + 1, window, since_round=self.round)
        progress.recently_active = recently_active
        if peer == self._id:
            progress.become_replicate()
            progress.recently_active = True
            progress.accepted(self._log.durable_index)
            progress.next = self._log.last_index + 1
        return progress

    # -- quorums ---------------------------------------------------------------------------

    def quorum_match(self, membership: Membership) -> int:
        """The newest index that a majority has on disk."""
        matched = {peer: progress.match for peer, progress in self.progress.items()}
        return agreed_value(membership.voters, matched)

    def quorum_round(self, membership: Membership) -> int:
        """The newest round that a majority has answered."""
        rounds = {peer: progress.acked_round for peer, progress in self.progress.items()}
        rounds[self._id] = self.round
        return agreed_value(membership.voters, rounds)

    def quorum_age(self, membership: Membership) -> int:
        """Ticks since this leader sent the newest message that a majority has answered."""
        sent = {peer: progress.acked_tick for peer, progress in self.progress.items()}
        sent[self._id] = self.now
        return self.now - agreed_value(membership.voters, sent)

    def quorum_was_active(self, membership: Membership) -> bool:
        """Whether a majority has answered since the last call."""
        active = {p: 1 for p, progress in self.progress.items() if progress.recently_active}
        active[self._id] = 1
        for progress in self.progress.values():
            progress.recently_active = False
        return agreed_value(membership.voters, active) > 0

    def heard_since(self, peer: PeerId, ticks: int) -> bool:
        """Whether the peer answered a message of the last ``ticks`` ticks."""
        return peer == self._id or self.now - self.progress[peer].acked_tick <= ticks

    # -- sending ---------------------------------------------------------------------------

    def send(self, kind: MessageKind, to: PeerId, **fields: object) -> None:
        self._outbox.send(
            Message(
                kind=kind,
                to=to,
                source=self._id,
                term=self._term,
                round=self.round,
                tick=self.now,
                **fields,  # type: ignore[arg-type]
            )
        )

    def begin_round(self) -> None:
        """A heartbeat to everyone."""
        self.round += 1
        for peer, progress in self.progress.items():
            if peer != self._id:
                commit = min(progress.match, self._log.commit)
                self.send(MessageKind.HEARTBEAT, peer, commit=commit)
                progress.sent_commit = max(progress.sent_commit, commit)

    def broadcast(self) -> None:
        """New entries and the commit index to everyone whose flow is not paused."""
        for peer, progress in self.progress.items():
            if peer != self._id and self._append_to(peer, progress, even_if_empty=True):
                self._fill_pipeline(peer, progress)

    def append_to(self, peer: PeerId) -> None:
        """An append to one peer, possibly empty, if its flow is not paused."""
        self._append_to(peer, self.progress[peer], even_if_empty=True)

    def go_on(self, peer: PeerId) -> None:
        """The peer has answered: send the next entries or the commit index."""
        progress = self.progress[peer]
        if progress.could_learn_commit(self._log.commit):
            self._append_to(peer, progress, even_if_empty=True)
        self._fill_pipeline(peer, progress)

    def _fill_pipeline(self, peer: PeerId, progress: Progress) -> None:
        """Send as many appends as the window admits."""
        while progress.next <= self._log.last_index:
            if not self._append_to(peer, progress, even_if_empty=False):
                return

    def _append_to(self, peer: PeerId, progress: Progress, *, even_if_empty: bool) -> bool:
        """Send the next entries if flow control admits it. Returns whether anything was sent."""
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
        self.send(
            MessageKind.APPEND,
            peer,
            log_term=log_term,
            index=progress.next - 1,
            commit=self._log.commit,
            entries=entries,
        )
        progress.sent(len(entries), sum(map(entry_size, entries)), self._log.commit)
        return True

    def _send_snapshot(self, peer: PeerId, progress: Progress) -> bool:
        if not progress.recently_active:
            return False
        snapshot = self._log.snapshot()
        if snapshot is None:
            return False  # the next response of the follower tries again
        progress.become_snapshot(snapshot.index)
        self.send(MessageKind.SNAPSHOT, peer, snapshot=snapshot)
        return True

    # -- answers ---------------------------------------------------------------------------

    def responder(self, message: Message) -> Progress | None:
        """The progress of the follower that answered; None for an answer that does not count."""
        progress = self.progress.get(message.source)
        if progress is None or message.source == self._id:
            return None
        if message.round < progress.since_round:
            return None
        progress.heard(message.round, message.tick, message.incarnation)
        return progress

    def heartbeat_answered(self, message: Message, progress: Progress) -> None:
        """The peer is alive: send lost and new entries."""
        progress.waiting = False
        if progress.match < self._log.last_index or progress.state is ProgressState.PROBE:
            self._append_to(message.source, progress, even_if_empty=True)

    def rejected(self, message: Message, progress: Progress) -> None:
        """Go back to the next possible point of agreement (3.5)."""
        hint = message.reject_hint
        if message.log_term > 0:
            hint, _ = self._log.last_index_not_after_term(hint, message.log_term)
        if progress.rejected(message.index, hint):
            if progress.state is ProgressState.REPLICATE:
                progress.become_probe()
            self._append_to(message.source, progress, even_if_empty=True)

    def accepted(self, message: Message, progress: Progress) -> bool:
        """The peer has the log up to an index. Returns whether anything changed."""
        if message.index > self._log.last_index:
            return False  # no correct peer acknowledges an entry that was never sent
        advanced = progress.accepted(message.index)
        probing = progress.state is ProgressState.PROBE
        if not advanced and not (probing and progress.match == message.index):
            return False
        if probing:
            progress.become_replicate()
        elif progress.state is ProgressState.REPLICATE:
            progress.inflights.acknowledge(message.index)
        elif progress.match + 1 >= self._log.first_index:
            progress.become_probe()
            progress.become_replicate()
        return True

    def own_disk_caught_up(self) -> bool:
        """This peer's own disk counts like any follower's. Returns whether ``match`` moved."""
        own = self.progress.get(self._id)
        return own is not None and own.accepted(self._log.durable_index)

    # -- reports of the transport ----------------------------------------------------------

    def report_snapshot(self, peer: PeerId, ok: bool) -> None:
        """The snapshot was delivered or has failed. Wait for the next response."""
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
        for peer, progress in self.progress.items():
            if peer != self._id:
                progress.check_invariants(self._log.last_index)
