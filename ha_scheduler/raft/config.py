"""Settings of one core, each with its unit and the consequence of a bad choice.

The guarantee: a `Config` that passed `validate()` cannot by itself endanger safety. Time is in
ticks, whose length the driver decides, alike on all peers; so times have no defaults here
(`peer/settings.py` has them).
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ConfigError
from .messages import PeerId

MIB = 1024 * 1024

ENTRY_BYTES_MAX = 1 * MIB  # of one entry's data; above, LMDB's p99 quadruples
HIGHEST_PRIORITY = 2  # in elections, and the default; one less is one election timeout later

#: A peer with ``electable`` False stands this many election timeouts later, after all others. A
#: leader whose engine is slow to start beats none.
UNELECTABLE_PATIENCE = HIGHEST_PRIORITY + 1


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one peer. `validate()` is called by the core."""

    peer_id: PeerId
    #: A follower campaigns after [election_ticks, 2 * election_ticks) ticks, at random, without a
    #: message of a leader. Must exceed the worst stall of a peer.
    election_ticks: int
    #: Ticks between two heartbeats. Several must fit into an election timeout, or one lost
    #: heartbeat costs the leadership.
    heartbeat_ticks: int
    #: A learner is promoted only with all entries of this many ticks ago, and an answer since
    #: (4.2.1): a commit that needs it waits about as long at most.
    promotion_lag_ticks: int
    #: A leader whose own disk has stalled for so long hands over, if a majority has committed
    #: entries that its disk lacks. Must exceed a stall of a healthy disk.
    disk_patience_ticks: int
    #: The order of candidacy, 0 to `HIGHEST_PRIORITY`. The windows of different priorities do not
    #: overlap: a lower one leads only if all higher ones are gone or lag. It never moves
    #: leadership away from a healthy leader.
    priority: int = HIGHEST_PRIORITY
    #: Pre-votes: no new term before an election can be won (9.6).
    pre_vote: bool = True
    #: A leader without contact to a quorum steps down; voters with a leader refuse candidates
    #: (6.2, 4.2.3). The lease of the driver rests on it.
    check_quorum: bool = True
    #: Step down at once when the newest contact to a quorum is an election timeout old. The check
    #: once per election timeout can take nearly twice as long.
    prompt_step_down: bool = True
    #: How far a peer's term rises within an election timeout on the word of others, without a
    #: majority of them (``terms.py``). Elections raise it by one or two.
    max_term_jump: int = 64
    #: Bytes of entries in one append message. One entry always fits.
    max_append_bytes: int = 1 * MIB
    #: Unanswered appends to one follower.
    max_inflight_messages: int = 64
    #: Their bytes, held by the follower and the link to it.
    max_inflight_bytes: int = 16 * MIB
    #: Bytes of one proposal; the proposer splits larger ones.
    max_entry_bytes: int = ENTRY_BYTES_MAX
    #: Bytes proposed and not committed, or not on the leader's own disk; further proposals are
    #: dropped. Bounds the leader's memory without a quorum, or with a stalled disk.
    max_uncommitted_bytes: int = 64 * MIB
    #: Bytes of committed entries handed out and not yet reported applied.
    max_applying_bytes: int = 16 * MIB
    #: Hand out committed entries before they are durable here. Saves a wait, but the driver must
    #: persist them before, or with, the effect of applying: ours writes both in one transaction.
    apply_unpersisted: bool = True

    def validate(self) -> None:
        """Raises `ConfigError` for values and pairs of values that endanger the cell."""
        if self.peer_id < 1:
            raise ConfigError(f"peer_id is {self.peer_id}; 0 means nobody, use 1 or more")
        if self.heartbeat_ticks < 1:
            raise ConfigError(f"heartbeat_ticks is {self.heartbeat_ticks}; use 1 or more")
        if self.election_ticks <= self.heartbeat_ticks:
            raise ConfigError(
                f"election_ticks ({self.election_ticks}) must exceed heartbeat_ticks "
                f"({self.heartbeat_ticks}), or followers depose every leader; use 5 times or more"
            )
        if not 0 <= self.priority <= HIGHEST_PRIORITY:
            raise ConfigError(f"priority is {self.priority}; use 0 to {HIGHEST_PRIORITY}")
        self._validate_limits()

    def _validate_limits(self) -> None:
        for name in (
            "promotion_lag_ticks",
            "disk_patience_ticks",
            "max_term_jump",
            "max_append_bytes",
            "max_inflight_messages",
            "max_inflight_bytes",
            "max_entry_bytes",
            "max_uncommitted_bytes",
            "max_applying_bytes",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.max_inflight_bytes < self.max_append_bytes:
            raise ConfigError(
                f"max_inflight_bytes ({self.max_inflight_bytes}) is below max_append_bytes "
                f"({self.max_append_bytes}): a single append would stop the flow"
            )
        if self.max_uncommitted_bytes < self.max_entry_bytes:
            raise ConfigError(
                f"max_uncommitted_bytes ({self.max_uncommitted_bytes}) is below max_entry_bytes "
                f"({self.max_entry_bytes}): the largest entry could wait for ever"
            )
