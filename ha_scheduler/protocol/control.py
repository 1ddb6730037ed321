"""What operators, and disks that want to join, ask of a peer, and what it answers.

Each request gets one answer: the one named beside it, or ``Declined``.
"""

from __future__ import annotations

import msgspec

from ha_scheduler.protocol.codec import Message, MessageSet, Name, Number, Text
from ha_scheduler.protocol.peer import Disk, Failover, PeerAddress, PeerId


class StatusRequest(Message, tag="status"):
    """``Status``, please."""


class HistoryRequest(Message, tag="history"):
    """``History``, please."""


class TransferRequest(Message, tag="transfer"):
    """Let peer ``to`` lead, or any other; ``Transferred`` when it does."""

    to: Name | None = None


class CellRequest(Message, tag="cell"):
    """``FoundingList``, please: the caller does not know which cell this is."""


class JoinRequest(Message, tag="join"):
    """Let ``disk`` in; ``Taken`` when the leader has begun to.

    ``replacing``: whether it takes the place of a former disk of its name; None: either.
    """

    disk: Disk
    replacing: bool | None = None


class RemoveRequest(Message, tag="remove"):
    """Remove ``peer``; ``Taken`` when the leader has begun to."""

    peer: Name


class Member(msgspec.Struct, frozen=True):
    """One disk of the cell, as the peer that was asked knows it.

    ``match`` (entries of the log it is known to hold) and ``lag`` are a leader's knowledge.
    ``heard_s``: seconds since it was heard of.
    """

    id: PeerId
    name: Name
    role: str
    leaving: bool
    match: Number | None
    lag: int | None
    connected: bool
    engine_ready: bool
    applied: Number | None
    heard_s: float | None


class EngineStatus(msgspec.Struct, frozen=True):
    """The engine of a peer. ``fed``: it was sent the log up to here; ``lag_s``: seconds behind."""

    state: str
    pid: Number
    dashboard: str
    fed: Number
    lag_s: float


class Status(Message, tag="status-answer"):
    """What a peer says of itself. Gaps and ``lease_s`` are in seconds.

    ``change``: what a change of the membership waits for; empty: none is under way.
    """

    cell: Text
    name: Name
    role: str
    witness: bool
    term: Number
    leader: Name | None
    serving: bool
    address: Text
    peers: tuple[PeerAddress, ...]
    commit: Number
    applied: Number
    first_index: Number
    last_index: Number
    lease_s: float
    engine: EngineStatus
    members: tuple[Member, ...]
    change: str
    watchers: Number
    tick_gap_s_max: float
    leader_gap_s_max: float
    history_tail: tuple[Failover, ...]


class History(Message, tag="history-answer"):
    """The changes of leader that a peer remembers, oldest first."""

    entries: tuple[Failover, ...]


class Transferred(Message, tag="transferred"):
    """Another peer leads."""

    leader: Name
    term: Number


class FoundingList(Message, tag="founding"):
    """The cell's founding list, as ``--peers`` takes it."""

    peers: Text


class Taken(Message, tag="taken"):
    """The leader has taken it on; its end is in the status."""


class Declined(Message, tag="declined"):
    """What was asked for is not done.

    ``passing``: it may be possible in a moment. ``leader``: who may be asked instead.
    """

    reason: Text
    passing: bool = False
    leader: Name | None = None


Request = (
    StatusRequest | HistoryRequest | TransferRequest | CellRequest | JoinRequest | RemoveRequest
)
Answer = Status | History | Transferred | FoundingList | Taken | Declined

REQUESTS: MessageSet[Request] = MessageSet(Request)
ANSWERS: MessageSet[Answer] = MessageSet(Answer)
