"""What a peer daemon and its engine say to each other.

The channel is one socketpair. Its guarantee is order: records reach the engine in the order of the
log, and what the engine proposes enters the log in the order of its ``Propose`` messages. It has no
error replies: an engine whose daemon is gone, or a daemon whose engine is gone, sees the end of the
stream within milliseconds; everything in flight then has an unknown outcome and is settled by the
log, not by either of them.

Start: the daemon sends ``Welcome``, then the ledger as ``Committed`` records with index 0 (the
shortest sequence of records that rebuilds it), then ``CaughtUp``. From then on each committed
record follows as it commits; one that this engine itself proposed comes back without its bytes.

Beside the channel the two share one page of memory (``lease.py``): the daemon writes how long its
leadership is certain, and an active engine writes nothing to the stream of a worker or client, and
answers no request, after that moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where one peer of the cell is reached: ``host``, its peer port and its Dask port."""

    name: str
    host: str
    peer_port: int
    dask_port: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """Daemon: the first message. ``options`` are the engine's settings as the CLI took them."""

    KIND: ClassVar[int] = 1
    cell: str
    name: str
    peers: tuple[PeerAddress, ...]
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Committed:
    """Daemon: one record has committed at ``index`` (0 while the ledger is replayed).

    ``proposal`` is the number of this engine's own ``Propose``, whose bytes are not sent back
    (``data`` is empty), or 0.
    """

    KIND: ClassVar[int] = 2
    index: int
    proposal: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Daemon: the ledger up to ``index`` has been sent; what follows is live."""

    KIND: ClassVar[int] = 3
    index: int


@dataclass(frozen=True, slots=True)
class Activate:
    """Daemon: this peer leads in ``term``; every record committed before the term has been sent.

    An engine is activated at most once in its life.
    """

    KIND: ClassVar[int] = 4
    term: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Daemon: answer with ``Pong`` of the same number from the engine's event loop."""

    KIND: ClassVar[int] = 5
    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Engine: everything up to ``CaughtUp`` is replayed; it may be activated."""

    KIND: ClassVar[int] = 16
    dashboard: str


@dataclass(frozen=True, slots=True)
class Propose:
    """Engine, active only: append this record. ``proposal`` counts from 1 without gaps."""

    KIND: ClassVar[int] = 17
    proposal: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Serving:
    """Engine: it listens at ``address`` as the leader of ``term``; tell every watcher."""

    KIND: ClassVar[int] = 18
    term: int
    address: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Engine: a phase of the failover to ``term`` was reached (CLOCK_MONOTONIC seconds)."""

    KIND: ClassVar[int] = 19
    term: int
    phase: str
    at: float
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pong:
    """Engine: its event loop is alive."""

    KIND: ClassVar[int] = 20
    number: int


ToEngine = Welcome | Committed | CaughtUp | Activate | Ping
ToDaemon = Ready | Propose | Serving | Mark | Pong
ChannelMessage = ToEngine | ToDaemon
