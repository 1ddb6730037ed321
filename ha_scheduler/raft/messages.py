"""The vocabulary of the core: entries, hard state, membership, messages.

The guarantee: whatever crosses the border of the core is frozen, so it cannot change under the disk
thread or the network. On the wire a struct is an array of its fields in order, checked by its
annotations (``wire``): a field is only ever added at the end, with a default.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Annotated

from msgspec import Meta, Struct

MAX_INT = 2**63 - 1
#: No term is higher. Ids of runs begin with the term, and 63 bits leave 31 for it; at an election
#: each second that is 68 years.
MAX_TERM = 2**31 - 1

Number = Annotated[int, Meta(ge=0, le=MAX_INT)]
Term = Annotated[int, Meta(ge=0, le=MAX_TERM)]
PeerId = Annotated[int, Meta(ge=1, le=MAX_INT)]

NO_PEER: PeerId = 0  # no vote cast, no leader known
ENTRY_OVERHEAD_BYTES = 32  # of an entry beside its data; a round figure, not a format
MAX_CONTEXT_BYTES = 4096  # of one read request; it is only an identifier
MAX_ENTRIES = 1_000_000  # of one message; the transport bounds bytes
MAX_PEERS = 64  # far above the size of a cell; bounds the memory of a malformed message


class EntryKind(IntEnum):
    NORMAL = 0
    CONF_CHANGE = 1


class Entry(Struct, frozen=True, array_like=True, gc=False):
    """One slot of the replicated log. Index and term together identify it for ever."""

    term: Term
    index: Number
    kind: EntryKind
    data: bytes


def entry_size(entry: Entry) -> int:
    """Bytes for message and memory limits."""
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class HardState:
    """Durable before any message that depends on it leaves this peer (thesis 3.8)."""

    term: int
    vote: PeerId
    commit: int


class Membership(Struct, frozen=True, array_like=True, gc=False):
    """Voters count for quorums, learners only receive the log. Both sorted."""

    voters: Annotated[tuple[PeerId, ...], Meta(max_length=MAX_PEERS)]
    learners: Annotated[tuple[PeerId, ...], Meta(max_length=MAX_PEERS)] = ()

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Voters and learners, sorted."""
        return tuple(sorted((*self.voters, *self.learners)))


class SnapshotMeta(Struct, frozen=True, array_like=True, gc=False):
    """The point of the log that a snapshot replaces, and the membership in force there."""

    index: Number
    term: Term
    membership: Membership


class MessageKind(IntEnum):
    """Values are wire format: never renumber, only append."""

    VOTE = 1
    VOTE_RESPONSE = 2
    PRE_VOTE = 3
    PRE_VOTE_RESPONSE = 4
    APPEND = 5
    APPEND_RESPONSE = 6
    HEARTBEAT = 7
    HEARTBEAT_RESPONSE = 8
    SNAPSHOT = 9
    TIMEOUT_NOW = 10
    READ_INDEX = 11
    READ_INDEX_RESPONSE = 12


#: Sent only by the leader of the message's term.
FROM_LEADER = frozenset({MessageKind.APPEND, MessageKind.HEARTBEAT, MessageKind.SNAPSHOT})


class Message(Struct, frozen=True, array_like=True, gc=False):
    """One message between two peers. The kind determines which fields are used.

    ``round`` and ``tick`` are the leader's round of heartbeats and its tick at sending. Responses
    echo them, so a response proves the *age* of a contact, whatever the network delay; reads and
    the lease rest on that. ``force`` marks the votes of a leadership transfer, which overrule the
    lease. ``incarnation`` is drawn by a peer at each start and sent with its answers; TIMEOUT_NOW
    returns it, so that one for an earlier life of its target is void.
    """

    kind: MessageKind
    to: PeerId
    source: PeerId
    term: Term
    log_term: Term = 0
    index: Number = 0
    commit: Number = 0
    entries: Annotated[tuple[Entry, ...], Meta(max_length=MAX_ENTRIES)] = ()
    reject: bool = False
    reject_hint: Number = 0
    context: Annotated[bytes, Meta(max_length=MAX_CONTEXT_BYTES)] = b""
    snapshot: SnapshotMeta | None = None
    round: Number = 0
    tick: Number = 0
    force: bool = False
    incarnation: Number = 0


class ServerState(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"
