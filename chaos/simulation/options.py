"""What a world is like: everything is drawn anew for each seed.

Swarm testing: a world with every fault at once is mostly one in which nothing is ever committed,
and some defects need that a fault is *absent*. So each kind of fault is there or not, and how
often it comes is drawn as well. The settings of the core are drawn in the same way, small limits
included.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields, replace
from enum import Enum

from chaos.simulation.clock import drift_allowed


class Control(Enum):
    """Worlds in which a violation must be found: they test the checkers."""

    FAST_CLOCK = "fast-clock"  # clocks differ by more than the lease's margin allows
    LYING_DISK = "lying-disk"  # what the disk said was durable is gone after a crash

    @property
    def lies(self) -> bool:
        return self is Control.LYING_DISK


#: Kind of fault -> the chance that a world has it.
KINDS = {
    "crash": 0.6,
    "blackout": 0.2,
    "pause": 0.5,
    "cut": 0.6,
    "slow_disk": 0.4,
    "stuck_disk": 0.25,
    "disk_error": 0.25,
    "flip": 0.3,
    "wipe": 0.25,
    "drift": 0.6,
    "membership": 0.6,
    "withhold": 0.2,
    "transfer": 0.35,
    "step_down": 0.2,
    "unelectable": 0.3,
    "campaign": 0.15,
}

SITES = (
    "sent VOTE",
    "sent VOTE_RESPONSE",
    "sent APPEND",
    "sent APPEND_RESPONSE",
    "sent TIMEOUT_NOW",
    "sent SNAPSHOT",
    "leads",
    "appended",
    "applied",
    "snapshot_installed",
    "committing",
    "committed",
)
"""Places in a peer where it may die or freeze at once, each active in a quarter of the worlds."""


STRAY = 0.3
"""The share of worlds in which a peer, or one that was removed, says terms that no one is in."""

HOSTILE = 0.3
"""The share of worlds in which code of users has taken over the engine of whoever leads."""

ABOUT = 0.15
"""The share of worlds about each theme: leases, logs, members, snapshots."""


@dataclass(frozen=True, slots=True)
class Options:
    """One world. Times in seconds, unless they are ticks; ``every`` is the mean time between."""

    seed: int
    voters: int
    safety_s: float
    tick_s: float
    election_ticks: int
    heartbeat_ticks: int
    lease_margin_ticks: int
    pre_vote: bool
    check_quorum: bool
    prompt_step_down: bool
    apply_unpersisted: bool
    max_append_bytes: int
    max_inflight_messages: int
    max_uncommitted_bytes: int
    max_applying_bytes: int
    recent_bytes: int
    tail_bytes: int
    trim_rows: int
    priorities: tuple[int, ...]
    promotion_lag_ticks: int
    #: A clock's rate lies between 1 and this.
    rate_max: float
    loss: float
    duplicate: float
    #: The chance that a message is held for seconds.
    late: float
    late_s: float
    delay_s: float
    in_order: bool
    loop_lag_s: float
    sync_s: float
    snapshot_s: float
    snapshot_loss: float
    compact: float
    propose_every_s: float
    propose_max_bytes: int
    read_every_s: float
    every: dict[str, float]
    sites: dict[str, float]
    restart_s: float
    pause_s: float
    cut_s: float
    members_max: int
    control: Control | None

    @property
    def election_s(self) -> float:
        """An election timeout on a perfect clock."""
        return self.election_ticks * self.tick_s

    @property
    def lease_s(self) -> float:
        """What the daemon gives to ``LeaderLease``."""
        return (self.election_ticks - self.lease_margin_ticks) * self.tick_s

    @property
    def leases_hold(self) -> bool:
        """Whether the lease promises anything here: ``campaign`` renounces what it rests on."""
        return self.check_quorum and "campaign" not in self.every

    def __str__(self) -> str:
        return "\n".join(f"  {field.name:22} {getattr(self, field.name)}" for field in fields(self))


def draw(seed: int, *, safety_s: float, control: Control | None = None) -> Options:
    """The world of ``seed``."""
    rng = random.Random(f"options {seed}")
    election = rng.choice((6, 10, 12, 20))
    margin = rng.choice((1, 2, 2, 3))
    every = {kind: _log_uniform(rng, 2.0, 40.0) for kind, p in KINDS.items() if rng.random() < p}
    options = Options(
        seed=seed,
        voters=rng.choice((1, 2, 3, 3, 3, 3, 4, 5, 5, 7)),
        safety_s=safety_s,
        tick_s=0.1,
        election_ticks=election,
        heartbeat_ticks=rng.choice((1, 2, 2)),
        lease_margin_ticks=margin,
        pre_vote=rng.random() < 0.75,
        check_quorum=rng.random() < 0.85,
        prompt_step_down=rng.random() < 0.7,
        apply_unpersisted=rng.random() < 0.6,
        max_append_bytes=rng.choice((1, 200, 2_000, 1 << 20)),
        max_inflight_messages=rng.choice((1, 3, 64)),
        max_uncommitted_bytes=rng.choice((2_000, 1 << 28)),
        max_applying_bytes=rng.choice((1, 500, 1 << 26)),
        recent_bytes=rng.choice((0, 500, 5_000, 1 << 20)),
        tail_bytes=rng.choice((1, 300, 1 << 23)),
        trim_rows=rng.choice((1, 5, 1024)),
        priorities=rng.choice(((2,), (2,), (2, 1), (2, 1, 0), (0,))),
        promotion_lag_ticks=rng.choice((1, 12, 50)),
        rate_max=_rate_max(rng, election, margin),
        loss=rng.choice((0.0, 0.0, 0.02, 0.1, 0.3)),
        duplicate=rng.choice((0.0, 0.0, 0.05, 0.3)),
        late=rng.choice((0.0, 0.0, 0.02, 0.1)),
        late_s=_log_uniform(rng, 0.1, 10.0),
        delay_s=_log_uniform(rng, 0.001, 0.08),
        in_order=rng.random() < 0.5,
        loop_lag_s=rng.choice((0.0, 0.0, 0.002, 0.03)),
        sync_s=_log_uniform(rng, 0.001, 0.1),
        snapshot_s=_log_uniform(rng, 0.05, 3.0),
        snapshot_loss=rng.choice((0.0, 0.2, 0.6)),
        compact=rng.choice((0.0, 0.05, 0.3)),
        propose_every_s=_log_uniform(rng, 0.05, 0.6),
        propose_max_bytes=rng.choice((50, 50, 1_000)),
        read_every_s=_log_uniform(rng, 0.3, 3.0),
        every=every,
        sites={site: rng.choice((0.01, 0.05)) for site in SITES if rng.random() < 0.25},
        restart_s=_log_uniform(rng, 0.1, 5.0),
        pause_s=_log_uniform(rng, 0.1, 3.0) * election * 0.1,
        cut_s=_log_uniform(rng, 0.3, 10.0),
        members_max=7,
        control=control,
    )
    if control is Control.FAST_CLOCK:
        return _about_leases(rng, options, beyond=2.0)
    if control is Control.LYING_DISK:
        return replace(options, every={**every, "blackout": 5.0})
    themes = (_about_leases, _about_logs, _about_members, _about_snapshots)
    theme = int(rng.random() / ABOUT)
    options = themes[theme](rng, options) if theme < len(themes) else options
    return _with_hostile_engines(_with_strays(options))


def _with_strays(options: Options) -> Options:
    """Drawn apart, so that a world without them is what its seed was before they existed."""
    rng = random.Random(f"stray {options.seed}")
    if rng.random() >= STRAY:
        return options
    return replace(options, every={**options.every, "stray": _log_uniform(rng, 0.2, 5.0)})


def _with_hostile_engines(options: Options) -> Options:
    """Drawn apart, as the strays are."""
    rng = random.Random(f"hostile {options.seed}")
    if rng.random() >= HOSTILE:
        return options
    return replace(options, every={**options.every, "overstep": _log_uniform(rng, 0.1, 3.0)})


def _about_leases(rng: random.Random, options: Options, beyond: float = 0.0) -> Options:
    """A lease is tried only if its leader is cut off, slow, and nothing else hinders an election.

    ``beyond``: how many times the drift that is allowed; 0: nearly what is allowed.
    """
    election, margin = rng.choice(((6, 2), (12, 2), (12, 3)))
    allowed = drift_allowed(election, margin)
    every = {"drift": 2.0, "cut": 2.5}
    late = 0.0
    if rng.random() < 0.4:
        every["transfer"] = 2.0
        late = rng.choice((0.0, 0.1, 0.3))
    return replace(
        options,
        voters=rng.choice((3, 3, 5)),
        election_ticks=election,
        heartbeat_ticks=1,
        lease_margin_ticks=margin,
        check_quorum=True,
        priorities=(2,),
        rate_max=allowed * beyond if beyond else 1.0 + (allowed - 1.0) * 0.98,
        delay_s=0.003,
        loop_lag_s=0.0,
        sync_s=0.002,
        loss=0.0,
        late=late,
        late_s=0.5,
        read_every_s=0.2,
        cut_s=2.0,
        sites={},
        every=every,
    )


def _about_logs(rng: random.Random, options: Options) -> Options:
    """Leaders come and go with entries that nobody else has, and disks that lag behind."""
    every = {"cut": 0.7, "crash": 1.5}
    if rng.random() < 0.25:
        every["flip"] = 3.0
    every.update({kind: 4.0 for kind in ("transfer", "pause", "step_down") if rng.random() < 0.3})
    return replace(
        options,
        voters=rng.choice((3, 3, 5)),
        election_ticks=6,
        heartbeat_ticks=1,
        check_quorum=rng.random() < 0.5,
        priorities=(2,),
        max_append_bytes=rng.choice((1, 200, 1 << 20)),
        max_uncommitted_bytes=1 << 28,
        loss=rng.choice((0.0, 0.1)),
        late=rng.choice((0.0, 0.05)),
        delay_s=rng.choice((0.003, 0.05)),
        sync_s=rng.choice((0.005, 0.1, 0.4)),
        compact=0.0,
        propose_every_s=0.05,
        propose_max_bytes=50,
        read_every_s=0.2,
        restart_s=0.3,
        cut_s=1.0,
        every=every,
    )


def _about_members(rng: random.Random, options: Options) -> Options:
    """Small cells that never stay the same, cut into halves."""
    return replace(
        options,
        voters=rng.choice((1, 2, 3, 4, 4)),
        election_ticks=6,
        heartbeat_ticks=1,
        promotion_lag_ticks=50,
        members_max=6,
        loss=0.0,
        sync_s=0.005,
        snapshot_s=0.05,
        snapshot_loss=0.0,
        restart_s=0.3,
        cut_s=1.0,
        every={**options.every, "membership": 0.4, "cut": 1.0, "crash": 4.0},
    )


def _about_snapshots(rng: random.Random, options: Options) -> Options:
    """Everybody compacts at once, so whoever was away needs a snapshot, and messages are old."""
    return replace(
        options,
        voters=rng.choice((2, 3, 3, 5)),
        compact=0.7,
        trim_rows=rng.choice((5, 1024)),
        loss=rng.choice((0.0, 0.1)),
        late=rng.choice((0.05, 0.4)),
        late_s=1.0,
        snapshot_s=rng.choice((0.1, 2.0)),
        snapshot_loss=rng.choice((0.2, 0.6)),
        propose_every_s=0.06,
        cut_s=0.5,
        every={**options.every, "cut": 1.0, "crash": 3.0, "withhold": 5.0},
    )


def _rate_max(rng: random.Random, election: int, margin: int) -> float:
    allowed = drift_allowed(election, margin)
    return rng.choice((1.0, 1.0 + (allowed - 1.0) * 0.5, 1.0 + (allowed - 1.0) * 0.98))


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))
