"""The protocol between the peers of a cell.

Each connection begins with ``PeerHello``, sent right behind the introduction and answered like one.
A stream carries ``RaftMessage`` and ``Gossip`` in one direction. A snapshot's connection carries
``SnapshotOffer`` ← ``SnapshotHeld``, the chunks, ``SnapshotEnd`` ← ``SnapshotInstalled``.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ha_scheduler.protocol.codec import (
    CellId,
    Message,
    MessageSet,
    Name,
    Number,
    Part,
    Port,
    Term,
    Text,
    Url,
)
from ha_scheduler.protocol.introduction import Refused

PeerId = Annotated[int, Meta(ge=1, le=2**63 - 1)]
STREAM_NAME_BYTES = 16
StreamName = Annotated[bytes, Meta(min_length=STREAM_NAME_BYTES, max_length=STREAM_NAME_BYTES)]

Seconds = Annotated[float, Meta(ge=0)]
LedgerDigest = Annotated[bytes, Meta(min_length=16, max_length=16)]
EndedBytes = Annotated[bytes, Meta(max_length=32 * 1024)]  # of one record with what was open


class PeerAddress(Part):
    """The addresses of one peer: ``host``, its peer port and its Dask port."""

    name: Name
    host: Name
    peer_port: Port
    dask_port: Port


class Disk(Part):
    """A peer's description of itself and its disk: a ``PeerNamed`` before its commit."""

    peer: PeerId
    disk: Number
    name: Name
    host: Name
    peer_port: Port
    dask_port: Port
    witness: bool


class Purpose(enum.StrEnum):
    """The purpose of a connection between peers."""

    CONTROL = "control"
    BULK = "bulk"
    SNAPSHOT = "snapshot"


class PeerHello(Message, tag="peer-hello"):
    """From disk ``own`` to the disk ``to_id`` of peer ``to``.

    ``fresh``: its log is empty. ``promise_ms``: time without a vote after each message of a leader,
    equal on all peers. ``cell_id``: of the cell whose ledger it has. ``distributed``: its release.
    """

    to: Name
    to_id: PeerId
    purpose: Purpose
    fresh: bool
    promise_ms: Number
    own: Disk
    cell_id: CellId = ""
    distributed: Text = ""


class RaftMessage(Message, tag="raft"):
    """A message of the core, in the format of ``raft.wire``."""

    body: msgspec.Raw


class Failover(msgspec.Struct, frozen=True):
    """One failover. ``phases``: name → seconds after ``started``; ``details`` by phase.

    ``started`` is wall clock, in seconds since the epoch.
    """

    term: Term
    leader: Name
    started: float
    phases: dict[str, float]
    details: dict[str, Any]


class Gossip(Message, tag="gossip"):
    """A peer's news of itself, beside the consensus.

    ``ready``: its engine could lead at once. ``applied``: its applied index; ``replayed``: that of
    its engine. ``serving``: term, name and engine's address, from a serving leader alone.
    ``history``: the newest failovers. ``disks``: the ids in the peer table, each with its disk.
    ``ended``: records of its engines' ends (``EngineEnded``) that it has not seen in the log yet.
    ``dashboard``: scheme and port of its engine's. ``waited_s``: for how long nobody serves, as it
    knows. ``digest``: of its ledger, at an index. ``format``: of records, that it reads.
    """

    ready: bool
    applied: Number
    serving: tuple[Term, Name, Text] | None
    history: tuple[Failover, ...]
    disks: tuple[tuple[Number, Number], ...]
    ended: Annotated[tuple[EndedBytes, ...], Meta(max_length=16)] = ()
    dashboard: Url = ""
    replayed: Number = 0
    waited_s: Seconds = 0.0
    digest: tuple[Number, LedgerDigest] | None = None
    release: Name = ""
    format: Number = 0


class SnapshotOffer(Message, tag="snapshot-offer"):
    """The begin of a snapshot: the unique name of its stream, and its tables.

    ``format``: that of the sender's records and tables.
    """

    stream: StreamName
    format: Number
    tables: tuple[Name, ...]


class SnapshotHeld(Message, tag="snapshot-held"):
    """The number of held chunks of this stream; the sender resumes there."""

    chunks: Number


class SnapshotChunk(Message, tag="snapshot-chunk"):
    """The next chunk of ``ledger.dump``."""

    data: bytes


class SnapshotEnd(Message, tag="snapshot-end"):
    """The end of the chunks, with the core's message."""

    body: msgspec.Raw


class SnapshotInstalled(Message, tag="snapshot-installed"):
    """Acknowledgement: the snapshot is installed."""


HELLO: MessageSet[PeerHello] = MessageSet(PeerHello)
ON_A_STREAM: MessageSet[RaftMessage | Gossip] = MessageSet(RaftMessage | Gossip)
OF_A_SENDER: MessageSet[SnapshotOffer | SnapshotChunk | SnapshotEnd] = MessageSet(
    SnapshotOffer | SnapshotChunk | SnapshotEnd
)
OF_A_RECEIVER: MessageSet[SnapshotHeld | SnapshotInstalled | Refused] = MessageSet(
    SnapshotHeld | SnapshotInstalled | Refused
)
