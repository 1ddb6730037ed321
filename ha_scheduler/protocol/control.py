"""The control protocol: requests of operators and joining disks to a peer.

Each request gets one answer: the one named beside it, or ``Declined``.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ha_scheduler.protocol.codec import CellId, Message, MessageSet, Name, Number, Term, Text
from ha_scheduler.protocol.engine import Content
from ha_scheduler.protocol.introduction import TOKEN_BYTES_MAX, Token
from ha_scheduler.protocol.peer import Disk, Failover, PeerAddress, PeerId, SnapshotChunk
from ha_scheduler.protocol.ring import TokenId

CREDENTIAL_BYTES_MAX = 32 * 1024
LOG_ENTRIES_MAX = 200  # in one answer


class StatusRequest(Message, tag="status"):
    """``Status``, please. ``linearizable``: when a quorum has said that it is not out of date."""

    linearizable: bool = False


class HistoryRequest(Message, tag="history"):
    """``History``, please."""


class TransferRequest(Message, tag="transfer"):
    """Transfer leadership to peer ``to`` (None: to any); ``Transferred`` when it leads."""

    to: Name | None = None


class CellRequest(Message, tag="cell"):
    """``FoundingList``, please: the caller does not know the cell."""


class JoinRequest(Message, tag="join"):
    """Add ``disk``; ``Taken`` when the leader has begun it.

    ``replacing``: whether it replaces a former disk of its name; None: either. ``learner``: it does
    not vote before an operator promotes it.
    """

    disk: Disk
    replacing: bool | None = None
    learner: bool = False


class MayJoinRequest(Message, tag="may-join"):
    """Whether such a disk would be let in now: ``Taken``. Nothing is changed.

    The numbers of ``disk`` are not looked at.
    """

    disk: Disk
    replacing: bool


class PromoteRequest(Message, tag="promote"):
    """Let ``peer``, a learner, vote; ``Taken`` when the leader has begun it."""

    peer: Name


class MaintainRequest(Message, tag="maintain"):
    """An order on who stands for election, given or lifted (``MaintenanceSet``).

    ``peer``: to drain; empty: nobody takes over by itself for ``for_s`` seconds. ``Taken`` when the
    leader has begun it. While nobody leads, whoever is asked to lift one does so for itself.
    """

    peer: Name
    active: bool
    for_s: Number = 0


class RemoveRequest(Message, tag="remove"):
    """Remove ``peer``; ``Taken`` when the leader has begun it."""

    peer: Name


class QuarantineRequest(Message, tag="quarantine"):
    """``Quarantine``, please."""


class ReleaseRequest(Message, tag="release"):
    """Let ``content`` be read and run again; ``Taken`` when the leader has begun it."""

    content: Content


class SnapshotRequest(Message, tag="snapshot"):
    """``SnapshotBegins``, please, and then a ``SnapshotChunk`` for each of the ledger's."""


class LogRequest(Message, tag="log"):
    """``LogLines``, please: ``count`` entries after index ``after`` (None: the last ones)."""

    after: Number | None = None
    count: Number = LOG_ENTRIES_MAX


class ClockRequest(Message, tag="clock"):
    """``Clock``, please."""


class ExamineRequest(Message, tag="examine"):
    """``Examined``, please: look at this host and the ways to the other peers."""


class TokenRequest(Message, tag="token-issue"):
    """Issue a token; ``Issued``. ``lifetime_s``: 0 for that of the role.

    ``thumbprint``: SHA-256 of the certificate to bind it to, or empty.
    """

    subject: Name
    role: Name
    lifetime_s: Number = 0
    scopes: dict[str, Any] = msgspec.field(default_factory=dict)
    thumbprint: bytes = b""


class RenewRequest(Message, tag="token-renew"):
    """Renew this token, which may have expired a while ago; ``Issued``."""

    token: Token


class LoginRequest(Message, tag="token-login"):
    """``Issued``, for whom the command of the site says that the holder of this credential is."""

    credential: Annotated[bytes, Meta(max_length=CREDENTIAL_BYTES_MAX)]


class TokensRequest(Message, tag="tokens"):
    """``Tokens``, please."""


class RevokeRequest(Message, tag="token-revoke"):
    """The token with this id holds no longer; ``Taken`` when that has committed."""

    token: TokenId


class RotateRequest(Message, tag="token-rotate"):
    """Sign with a new key from now on; ``Taken`` when it signs.

    ``drop_old``: tokens of all other keys hold no longer.
    """

    drop_old: bool = False


class ListedToken(msgspec.Struct, frozen=True):
    """A token that was issued. Times are seconds since the epoch. ``by``: who asked for it."""

    token: TokenId
    subject: Name
    role: Name
    issued: Number
    expires: Number
    scopes: Text
    by: Name
    revoked: bool


class ListedKey(msgspec.Struct, frozen=True):
    """A key that signs, or has signed. ``at``: seconds since the epoch."""

    kid: Name
    peer: Name
    at: Number


class CaseDeath(msgspec.Struct, frozen=True):
    """An engine that ended, as the leader of ``term`` (``led``) or beside it.

    ``at``: seconds since the epoch. ``alone``: nothing else was open.
    """

    peer: Name
    term: Number
    led: bool
    cause: Text
    at: Number
    alone: bool


class QuarantinedCase(msgspec.Struct, frozen=True):
    """What engines ended of. ``content``: its digest. Else as in ``Exposure``."""

    content: Content
    kind: Name
    what: Name
    client: Name
    session: Name
    sequence: Number
    set_aside: bool
    deaths: tuple[CaseDeath, ...]


class Member(msgspec.Struct, frozen=True):
    """One disk of the cell, as the answering peer knows it.

    ``match`` (index of its log) and ``lag`` (entries) are a leader's knowledge. ``heard_s``:
    seconds since its last gossip. ``replayed``: its engine has read the log up to here.
    ``release``: of its package, as it said.
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
    replayed: Number | None = None
    release: str = ""


class EngineStatus(msgspec.Struct, frozen=True):
    """The engine of a peer. ``fed``: index up to which the log was sent; ``lag_s``: replay lag.

    ``isolation``: ``full``, or what the kernel cannot keep from it (``Plan.summary``).
    ``failing``: how the last one ended, if they end again and again.
    """

    state: str
    pid: Number
    dashboard: str
    fed: Number
    lag_s: float
    isolation: Name = ""
    failing: Text = ""


class CertificateEnd(msgspec.Struct, frozen=True):
    """A file of certificates. ``at``: when the first of them expires, in seconds of the epoch."""

    file: Text
    at: Number


class Order(msgspec.Struct, frozen=True):
    """An order that holds: see ``MaintenanceSet``. Times are seconds since the epoch."""

    peer: Name
    until: Number
    by: Name
    at: Number


class Status(Message, tag="status-answer"):
    """The status of a peer. Gaps and ``lease_s`` are in seconds.

    ``change``: the obstacle of the membership change in progress; empty: none. ``rejected``: how
    many records of the log could not be applied, with the latest of them in words. ``set_aside``:
    the latest contents that are not read any more, in words. ``predecessor``
    as in ``Welcome``. ``vip``: the virtual address, or empty; ``vip_held``: this host has it.
    ``heir``: of a leader, who would lead next; whether that is ready says its member.
    ``maintenance``: what operators have ordered about who stands for election. ``ledgers_differ``:
    from ours, when they were compared last. ``format``: of the records that the latest leader
    writes. ``waited_s``: for how long nobody serves, as this peer knows.
    """

    cell: Text
    name: Name
    role: str
    witness: bool
    term: Term
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
    rejected: Number = 0
    rejections: tuple[Text, ...] = ()
    set_aside: tuple[Text, ...] = ()
    cell_id: CellId = ""
    predecessor: CellId = ""
    vip: Text = ""
    vip_held: bool = False
    heir: Text = ""
    certificates: tuple[CertificateEnd, ...] = ()
    maintenance: tuple[Order, ...] = ()
    ledgers_differ: tuple[Text, ...] = ()
    format: Number = 0
    waited_s: float = 0.0


class History(Message, tag="history-answer"):
    """The failovers that a peer remembers, oldest first."""

    entries: tuple[Failover, ...]


class SnapshotBegins(Message, tag="snapshot-begins"):
    """The head of a copy of a ledger: of which cell, by which peer, as of which entry, and when.

    ``format`` as in ``SnapshotOffer``; ``at``: seconds since the epoch.
    """

    format: Number
    release: Name
    cell: Text
    cell_id: CellId
    peer: Name
    index: Number
    term: Term
    at: Number


class LoggedEntry(msgspec.Struct, frozen=True):
    """An entry of the log in words; of ``nbytes`` bytes."""

    index: Number
    term: Term
    kind: Name
    nbytes: Number
    detail: Text


class LogLines(Message, tag="log-answer"):
    """Entries, and where the log of this peer begins and ends, and how much of it is applied."""

    first: Number
    last: Number
    applied: Number
    entries: tuple[LoggedEntry, ...]


class Clock(Message, tag="clock-answer"):
    """The time of day, in seconds since the epoch."""

    at: float


class Way(msgspec.Struct, frozen=True):
    """The way from one peer to another.

    ``error``: why there is none. ``trip_s``: a round trip; ``offset_s``: how much the clock there
    is ahead. ``port_error``: why nobody can connect to its Dask port, if it leads.
    """

    peer: Name
    error: Text
    trip_s: float
    offset_s: float
    port_error: Text


class Examined(Message, tag="examined"):
    """What a peer found out. ``at``: its time of day. ``fsync_s``: the median of a small write."""

    name: Name
    release: Name
    versions: dict[Name, Name]
    system: Text
    at: float
    tick_ms: Number
    heartbeat_ticks: Number
    election_ticks: Number
    priority: Number
    fsync_s: float
    fsync_s_max: float
    free_bytes: Number
    files_max: Number
    ways: tuple[Way, ...]


class Quarantine(Message, tag="quarantine-answer"):
    """What engines ended of, in the order of the latest ends."""

    cases: tuple[QuarantinedCase, ...]


class Issued(Message, tag="token-answer"):
    """A token. ``expires``: seconds since the epoch."""

    text: Annotated[str, Meta(max_length=TOKEN_BYTES_MAX)]
    token: TokenId
    expires: Number


class Tokens(Message, tag="tokens-answer"):
    """What was issued, latest last, and the keys that may have signed it, oldest first."""

    tokens: tuple[ListedToken, ...]
    keys: tuple[ListedKey, ...]


class Transferred(Message, tag="transferred"):
    """Another peer leads."""

    leader: Name
    term: Term


class FoundingList(Message, tag="founding"):
    """The cell's founding list, as ``--peers`` takes it."""

    peers: Text


class Taken(Message, tag="taken"):
    """The leader has begun the change; its end is in the status."""


class Declined(Message, tag="declined"):
    """The request is not done. ``passing``: a retry may succeed. ``leader``: for the retry."""

    reason: Text
    passing: bool = False
    leader: Name | None = None


Request = (
    StatusRequest
    | HistoryRequest
    | TransferRequest
    | CellRequest
    | JoinRequest
    | MayJoinRequest
    | PromoteRequest
    | RemoveRequest
    | MaintainRequest
    | QuarantineRequest
    | ReleaseRequest
    | SnapshotRequest
    | LogRequest
    | ClockRequest
    | ExamineRequest
    | TokenRequest
    | RenewRequest
    | LoginRequest
    | TokensRequest
    | RevokeRequest
    | RotateRequest
)
Answer = (
    Status
    | History
    | Transferred
    | FoundingList
    | Taken
    | Declined
    | Quarantine
    | SnapshotBegins
    | LogLines
    | Clock
    | Examined
    | Issued
    | Tokens
)

REQUESTS: MessageSet[Request] = MessageSet(Request)
ANSWERS: MessageSet[Answer] = MessageSet(Answer)
OF_A_COPY: MessageSet[SnapshotBegins | SnapshotChunk] = MessageSet(SnapshotBegins | SnapshotChunk)
