"""What the peers of a cell say to each other.

Each line begins with ``PeerHello``, sent right behind the introduction and answered like one. A
line brings ``RaftMessage`` and ``Gossip`` in one direction; the connection of a snapshot goes to
and fro: ``SnapshotOffer`` and how much of it is held, the chunks, ``SnapshotEnd`` and
``SnapshotInstalled``.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ha_scheduler.protocol.codec import Message, MessageSet, Name, Number, Part, Port, Text
from ha_scheduler.protocol.introduction import Refused

PeerId = Annotated[int, Meta(ge=1, le=2**63 - 1)]
STREAM_NAME_BYTES = 16
StreamName = Annotated[bytes, Meta(min_length=STREAM_NAME_BYTES, max_length=STREAM_NAME_BYTES)]


class PeerAddress(Part):
    """Where one peer of the cell is reached: ``host``, its peer port and its Dask port."""

    name: Name
    host: Name
    peer_port: Port
    dask_port: Port


class Disk(Part):
    """How a peer describes itself and its disk: ``PeerNamed`` of the ledger, before it is there."""

    peer: PeerId
    disk: Number
    name: Name
    host: Name
    peer_port: Port
    dask_port: Port
    witness: bool


class Purpose(enum.StrEnum):
    """Why a peer dials a peer."""

    CONTROL = "control"
    BULK = "bulk"
    SNAPSHOT = "snapshot"


class PeerHello(Message, tag="peer-hello"):
    """The caller is disk ``own`` and means the disk ``to_id`` of peer ``to``.

    ``fresh``: its log is empty. ``promise_ms``: for so long it elects nobody after it has heard a
    leader, which all peers must agree on.
    """

    to: Name
    to_id: PeerId
    purpose: Purpose
    fresh: bool
    promise_ms: Number
    own: Disk


class RaftMessage(Message, tag="raft"):
    """A message of the core, as ``raft.wire`` has it and checks it."""

    body: msgspec.Raw


class Failover(msgspec.Struct, frozen=True):
    """One change of leader. ``phases``: name → seconds after ``started``; ``details`` by phase.

    ``started`` is wall clock, in seconds since the epoch.
    """

    term: Number
    leader: Name
    started: float
    phases: dict[str, float]
    details: dict[str, Any]


class Gossip(Message, tag="gossip"):
    """What a peer says of itself, beside the consensus.

    ``ready``: its engine could lead at once. ``applied``: up to here its ledger has come.
    ``serving``: the term, name and engine's address of a leader that serves, from itself alone.
    ``history``: the newest changes of leader. ``disks``: id and disk of who belongs to the cell.
    """

    ready: bool
    applied: Number
    serving: tuple[Number, Name, Text] | None
    history: tuple[Failover, ...]
    disks: tuple[tuple[Number, Number], ...]


class SnapshotOffer(Message, tag="snapshot-offer"):
    """A ledger is about to be sent: the name of its stream, which no other has, and its tables.

    ``format``: that of the sender's records and tables.
    """

    stream: StreamName
    format: Number
    tables: tuple[Name, ...]


class SnapshotHeld(Message, tag="snapshot-held"):
    """So many chunks of that very stream are held; go on from there."""

    chunks: Number


class SnapshotChunk(Message, tag="snapshot-chunk"):
    """The next chunk, as ``ledger.dump`` made it."""

    data: bytes


class SnapshotEnd(Message, tag="snapshot-end"):
    """All chunks were sent; the core's message about them."""

    body: msgspec.Raw


class SnapshotInstalled(Message, tag="snapshot-installed"):
    """The ledger was replaced by what was sent."""


HELLO: MessageSet[PeerHello] = MessageSet(PeerHello)
ON_A_STREAM: MessageSet[RaftMessage | Gossip] = MessageSet(RaftMessage | Gossip)
OF_A_SENDER: MessageSet[SnapshotOffer | SnapshotChunk | SnapshotEnd] = MessageSet(
    SnapshotOffer | SnapshotChunk | SnapshotEnd
)
OF_A_RECEIVER: MessageSet[SnapshotHeld | SnapshotInstalled | Refused] = MessageSet(
    SnapshotHeld | SnapshotInstalled | Refused
)
