"""The settings of one peer daemon, checked before anything is started.

The times, with the defaults in brackets. One tick is ``tick_ms`` [50 ms].

- A leader sends a heartbeat each ``heartbeat_ticks`` [100 ms].
- A follower stands for election after a silence of a random time between ``election_ticks`` and
  twice that [600 to 1200 ms]. The first of two followers does so after 800 ms on average; the vote
  is two messages and one fsync more.
- A peer of lower ``priority``, or without a ready engine, stands one or more times 600 ms later:
  peers of one kind have tried before those of the next do.
- A leader that hears no majority for ``election_ticks`` steps down [600 ms], and trusts its lease
  for less. So it stops before another can be elected.
- ``election_ticks`` is at least three heartbeats [six]: one lost or late packet, or one slow fsync,
  must not depose a leader. On a network with a round trip over 20 ms, or with disks whose fsync
  takes over 100 ms, raise ``--election-ticks`` in proportion.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ha_scheduler.cell.address import is_loopback, join_address
from ha_scheduler.cell.peers import Cell
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import OperatorError
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.vip.address import VirtualAddress
from ha_scheduler.vip.hooks import Commands

TICK_MS_MIN = 5  # below it a loaded event loop misses ticks
TICK_MS_MAX = 1000
ELECTION_MS_MAX = 60_000  # beyond it a dead leader is a matter for an operator
HEARTBEATS_PER_ELECTION_MIN = 3

ENGINE_WATCHDOG_S = 120.0  # a graph of 1.5 million tasks blocks the engine for that long
ENGINE_WATCHDOG_S_MIN = 5.0

PRIORITY_MAX = 2  # that of the core, and the default: no peer stands before another


@dataclass(frozen=True, slots=True)
class Timing:
    """How often peers talk, and how soon silence counts as death; the same for all peers.

    Smaller values notice a death sooner, and mistake a stall of network or disk for one sooner.
    """

    tick_ms: int = 50
    heartbeat_ticks: int = 2
    election_ticks: int = 12

    def __post_init__(self) -> None:
        if not TICK_MS_MIN <= self.tick_ms <= TICK_MS_MAX:
            raise OperatorError(
                f"--tick-ms {self.tick_ms} is out of range; "
                f"use {TICK_MS_MIN} to {TICK_MS_MAX} milliseconds."
            )
        if self.heartbeat_ticks < 1:
            raise OperatorError(
                f"{self.heartbeat_ticks} ticks between heartbeats are too few; use at least 1."
            )
        ticks_min = HEARTBEATS_PER_ELECTION_MIN * self.heartbeat_ticks
        ticks_max = ELECTION_MS_MAX // self.tick_ms
        if not ticks_min <= self.election_ticks <= ticks_max:
            raise OperatorError(
                f"--election-ticks {self.election_ticks} is out of range; "
                f"use {ticks_min} ({HEARTBEATS_PER_ELECTION_MIN} heartbeats) to {ticks_max} "
                f"({ELECTION_MS_MAX // 1000} s), better {6 * self.heartbeat_ticks} or more."
            )

    @property
    def tick_s(self) -> float:
        return self.tick_ms / 1000

    @property
    def promise_ms(self) -> int:
        """Milliseconds in which whoever heard a leader elects no other; leases rely on it."""
        return self.tick_ms * self.election_ticks

    @property
    def election_s(self) -> tuple[float, float]:
        """The shortest and the longest silence before a follower stands for election."""
        return self.tick_s * self.election_ticks, self.tick_s * self.election_ticks * 2


class Admission(enum.Enum):
    """How an empty disk comes into a running cell."""

    JOIN = "join"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """The settings of ``ha_scheduler.peer.daemon.run``.

    ``tls``: None only for plaintext on loopback; ``engine_tls``: what the engine serves with, and
    the only files of TLS that it is given. ``host``: the address to listen at, if the
    operator gave one (``listen_host``). ``cell``: the operator's ``--peers``, the founding list or
    the peers of today. ``admission``: an empty disk comes into a running cell. ``witness``: this
    peer votes and keeps no ledger.
    ``learner``: it joins without a vote, until it is promoted. ``enrolment_port``: where nodes get
    certificates for tokens.

    ``certificate_alone``: a process without this package, which shows no token, is served as what
    its certificate says. ``token_command``: a program that says who the holder of a credential is.

    ``engine_user``: the user that the engine runs as, if not the daemon's; ``engine_env``: what the
    engine gets of the daemon's environment beside what ``isolation.py`` lists.

    ``log_format``: of the engine's lines, as those of the daemon (``log_lines.FORMATS``).

    ``http``: host (empty: all) and port of the daemon's HTTP; None: none.

    ``vip``: the address that this host has while this peer leads. ``hooks``: commands of the site
    at the begin and the end of that. ``scale_command``: a program that starts and ends workers.

    ``engine_options`` goes to the engine as it is, with the keys of ``ENGINE_OPTIONS``; values are
    strings, numbers, booleans, None and lists of strings.
    """

    cell: Cell
    name: str
    data_dir: Path
    tls: TlsFiles | None = None
    engine_tls: TlsFiles | None = None
    host: str | None = None
    timing: Timing = field(default_factory=Timing)
    engine_watchdog_s: float = ENGINE_WATCHDOG_S
    priority: int = PRIORITY_MAX  # the order of candidacy after the loss of a leader
    engine_options: dict[str, Any] = field(default_factory=dict)
    engine_user: str | None = None
    engine_env: tuple[str, ...] = ()
    vip: VirtualAddress | None = None
    http: tuple[str, int] | None = None
    hooks: Commands = field(default_factory=Commands)
    scale_command: str | None = None
    pid_file: Path | None = None
    scheduler_file: Path | None = None
    enrolment_port: int | None = None
    admission: Admission | None = None
    witness: bool = False
    learner: bool = False
    certificate_alone: bool = False
    token_command: str | None = None
    log_format: str = "text"

    def __post_init__(self) -> None:
        if self.name not in self.cell.names:
            raise OperatorError(
                f"Peer {self.name} is not one of the peers ({', '.join(self.cell.names)}); "
                f"use one of these names."
            )
        if not (
            math.isfinite(self.engine_watchdog_s)
            and self.engine_watchdog_s >= ENGINE_WATCHDOG_S_MIN
        ):
            raise OperatorError(
                f"--engine-watchdog {self.engine_watchdog_s:g} is out of range; use at least "
                f"{ENGINE_WATCHDOG_S_MIN:g} seconds, and more than the largest graph needs."
            )
        if self.learner and self.admission is not Admission.JOIN:
            raise OperatorError(
                "--learner is for a new peer, which joins; add --join, or leave it out."
            )
        if not 0 <= self.priority <= PRIORITY_MAX:
            raise OperatorError(
                f"--priority {self.priority} is out of range; use 0 to {PRIORITY_MAX}."
            )
        if self.http is not None and self.tls is None and not is_loopback(self.http[0]):
            raise OperatorError(
                f"--http-address {join_address(*self.http)} would tell anybody of this cell in "
                f"plaintext; name an address of loopback, or leave out --protocol tcp."
            )
        if self.scheduler_file is not None and "," in str(self.scheduler_file):
            raise OperatorError(
                f"--scheduler-file {self.scheduler_file} has a comma, which separates addresses; "
                f"give it another name."
            )
        if self.vip is not None and (self.listen_host or self.witness):
            raise OperatorError(
                "--vip is for a peer that can lead and listens at all addresses of its host; leave "
                "out --vip, or --host, --interface and --witness. A cell on loopback has none."
            )
        if self.tls is None and not self.cell.on_loopback:
            raise OperatorError(
                "Plaintext is for cells on loopback only; run `dask-ha-scheduler init` and give "
                "each peer its certificate."
            )

    @property
    def address(self) -> PeerAddress:
        return self.cell.peer(self.name)

    @property
    def listen_host(self) -> str:
        """Where the peer port and the Dask port listen; empty: all addresses of this host.

        All, because a VIP comes and goes and a host name may resolve to 127.0.1.1 on its own host;
        TLS guards them. A peer on loopback listens there only.
        """
        if self.host is not None:
            return self.host
        return self.address.host if is_loopback(self.address.host) else ""


#: What ``PeerSettings.engine_options`` holds, named as the options of ``dask scheduler`` are.
ENGINE_OPTIONS = (
    "host",  # the address to listen at, "" for all
    "port",  # the Dask port of this peer
    "protocol",  # "tls" or "tcp"
    "dashboard",  # whether to serve it
    "dashboard_address",
    "dashboard_prefix",
    "preload",
    "preload_argv",
    "idle_timeout",  # None, or as the operator wrote it: "1 hour"
    "session_ttl",  # as the operator wrote it: "2 hours"
    "tls_ca_file",  # the engine's own pair: absolute paths, or None
    "tls_cert",
    "tls_key",
    "log_level",  # "info"
)
