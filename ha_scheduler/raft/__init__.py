"""Raft as a pure state machine: messages and ticks in, a `Ready` out. No I/O, clock or threads.

Start with `RawNode` (node.py) and the contract of `Ready` (ready.py). Section numbers without
further words are those of Ongaro's thesis, "Consensus: Bridging Theory and Practice" (2014).
"""

from .config import ENTRY_BYTES_MAX, HIGHEST_PRIORITY, Config
from .errors import (
    CallerError,
    CompactedError,
    ConfigError,
    EntryTooLargeError,
    InvariantViolationError,
    LogCorruptionError,
    MalformedMessageError,
    MembershipChangeError,
    NotLeaderError,
    PeerError,
    ProposalDroppedError,
    RaftError,
    StorageError,
    TransferError,
    UnavailableError,
)
from .membership import ChangeKind, MembershipChange, decode_membership, encode_membership
from .messages import (
    NO_PEER,
    Entry,
    EntryKind,
    HardState,
    Membership,
    Message,
    MessageKind,
    PeerId,
    Role,
    SnapshotMeta,
    entry_size,
)
from .node import RawNode
from .progress import ProgressState, ProgressView
from .ready import ReadState, Ready, SoftState
from .storage import LogReader, limit_size
from .wire import message_from_wire, message_to_wire

__all__ = [
    "RawNode",
    "Config",
    "HIGHEST_PRIORITY",
    "ENTRY_BYTES_MAX",
    "Ready",
    "ReadState",
    "SoftState",
    "LogReader",
    "limit_size",
    "NO_PEER",
    "PeerId",
    "Role",
    "Entry",
    "EntryKind",
    "HardState",
    "Membership",
    "SnapshotMeta",
    "Message",
    "MessageKind",
    "entry_size",
    "message_to_wire",
    "message_from_wire",
    "ChangeKind",
    "MembershipChange",
    "encode_membership",
    "decode_membership",
    "ProgressState",
    "ProgressView",
    "RaftError",
    "CallerError",
    "ConfigError",
    "NotLeaderError",
    "ProposalDroppedError",
    "EntryTooLargeError",
    "MembershipChangeError",
    "TransferError",
    "PeerError",
    "MalformedMessageError",
    "StorageError",
    "CompactedError",
    "UnavailableError",
    "LogCorruptionError",
    "InvariantViolationError",
]
