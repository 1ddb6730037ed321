"""What a peer daemon and its engine say to each other.

The channel is one socketpair. Its guarantee is order: records reach the engine in the order of the
log, and what the engine proposes enters the log in the order of its ``Propose`` messages. It has no
error replies: an engine whose daemon is gone, or a daemon whose engine is gone, sees the end of the
stream within milliseconds; everything in flight then has an unknown outcome and is settled by the
log, not by either of them.

Start: the daemon introduces itself. Once the engine has accepted, it sends ``EngineSettings``, then
the ledger as ``RecordCommitted`` with index 0 (the shortest sequence of records that rebuilds
it), then ``CaughtUp``. From then on each committed record follows as it commits; one that this
engine itself proposed comes back without its bytes.

Beside the channel the two share one page of memory (``shared_lease.py``): the daemon writes how
long its leadership is certain, and an active engine writes nothing to the stream of a worker or
client, and answers no request, after that moment.
"""

from __future__ import annotations

from typing import Any

from ha_scheduler.protocol.codec import Message, MessageSet, Number
from ha_scheduler.protocol.peer import PeerAddress


class EngineSettings(Message, tag="engine-settings"):
    """Daemon: the first message. ``options`` are the engine's settings as the CLI took them."""

    cell: str
    name: str
    peers: tuple[PeerAddress, ...]
    options: dict[str, Any]


class RecordCommitted(Message, tag="committed"):
    """Daemon: one record has committed at ``index`` (0 while the ledger is replayed).

    ``proposal`` is the number of this engine's own ``Propose``, whose bytes are not sent back
    (``data`` is empty), or 0.
    """

    index: Number
    proposal: Number
    data: bytes


class CaughtUp(Message, tag="caught-up"):
    """Daemon: the ledger up to ``index`` has been sent; what follows is live."""

    index: Number


class Activate(Message, tag="activate"):
    """Daemon: this peer leads in ``term``; every record committed before the term has been sent.

    An engine is activated at most once in its life.
    """

    term: Number


class Ping(Message, tag="ping"):
    """Daemon: answer with ``Pong`` of the same number from the engine's event loop."""

    number: Number


class EngineReady(Message, tag="engine-ready"):
    """Engine: everything up to ``CaughtUp`` is replayed; it may be activated."""

    dashboard: str


class Propose(Message, tag="propose"):
    """Engine, active only: append this record. ``proposal`` counts from 1 without gaps."""

    proposal: Number
    data: bytes


class Serving(Message, tag="serving"):
    """Engine: it listens at ``address`` as the leader of ``term``; tell every watcher."""

    term: Number
    address: str


class Mark(Message, tag="mark"):
    """Engine: a phase of the failover to ``term`` was reached (CLOCK_MONOTONIC seconds)."""

    term: Number
    phase: str
    at: float
    detail: dict[str, Any]


class Pong(Message, tag="pong"):
    """Engine: its event loop is alive."""

    number: Number


ToEngine = EngineSettings | RecordCommitted | CaughtUp | Activate | Ping
ToDaemon = EngineReady | Propose | Serving | Mark | Pong

TO_ENGINE: MessageSet[ToEngine] = MessageSet(ToEngine)
TO_DAEMON: MessageSet[ToDaemon] = MessageSet(ToDaemon)
