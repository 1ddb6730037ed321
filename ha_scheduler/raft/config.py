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

ENTRY_BYTES_MAX = 1 * MIB
"""Of one entry's data. Above, LMDB's p99 quadruples."""

HIGHEST_PRIORITY = 2
"""Of a peer in elections, and the default. One less means one election timeout later."""

UNELECTABLE_PATIENCE = HIGHEST_PRIORITY + 1
"""A peer that should not lead now stands this many election timeouts later than it would: after
every peer that may. A cell led by a peer whose engine is slow to start beats one without leader."""


@dataclass(frozen=True, slots=True)
class Config:
    """How this peer takes part. `validate()` is called by the core."""

    peer_id: PeerId
    #: Ticks without word from a leader before a follower campaigns; the actual timeout is drawn
    #: from [election_ticks, 2 * election_ticks). Must exceed the worst stall of a peer.
    election_ticks: int
    #: Ticks between two heartbeats. Several must fit into an election timeout, or one lost
    #: heartbeat costs the leadership.
    heartbeat_ticks: int
    #: A learner becomes a voter only if it has all that the log held this many ticks ago, and has
    #: answered since (4.2.1). So a commit that comes to need it waits no longer than about that.
    promotion_lag_ticks: int
    #: A leader whose own disk has taken nothing for so long hands over, if a majority has committed
    #: what its disk lacks. Must exceed a stall of a disk that is well.
    disk_patience_ticks: int
    #: Who stands first when a leader is gone, 0 to `HIGHEST_PRIORITY`. The windows in which peers
    #: of different priority stand do not overlap, so a lower one leads only if all higher ones
    #: are gone or lag; it never moves leadership away from a leader that is well.
    priority: int = HIGHEST_PRIORITY
    #: Ask whether an election could be won before disturbing the cell with a new term (9.6).
    pre_vote: bool = True
    #: A leader without contact to a quorum steps down; voters that hear a leader refuse
    #: candidates (6.2, 4.2.3). The lease of the driver rests on it.
    check_quorum: bool = True
    #: Step down the moment the newest contact to a quorum is an election timeout old, instead
    #: of checking once per election timeout, which can take nearly twice as long.
    prompt_step_down: bool = True
    #: Bytes of entries in one append message. One entry always fits, whatever its size.
    max_append_bytes: int = 1 * MIB
    #: Appends to one follower that may be unanswered, by count and by bytes.
    max_inflight_messages: int = 64
    #: A follower must hold them, and the link to it.
    max_inflight_bytes: int = 16 * MIB
    #: Bytes of one proposal. Who proposes splits what is larger.
    max_entry_bytes: int = ENTRY_BYTES_MAX
    #: Bytes proposed but not committed, or not yet on the leader's own disk; more proposals are
    #: dropped. Bounds the leader's memory while it has no quorum, or a disk that is stuck.
    max_uncommitted_bytes: int = 64 * MIB
    #: Bytes of committed entries handed out and not yet reported applied.
    max_applying_bytes: int = 16 * MIB
    #: Hand out committed entries that this peer has not yet made durable itself. Saves a wait,
    #: but the driver must then persist before it makes the effect of applying durable: ours
    #: carries both in one transaction.
    apply_unpersisted: bool = True

    def validate(self) -> None:
        """Refuse values, and pairs of values, that are known to end badly."""
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
