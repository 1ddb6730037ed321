"""The records of the event stream: what must survive and no worker can tell.

Guarantee: ``decode(encode(record)) == record`` for every record of this release, and a record that
this release does not know is refused by name (``UnknownRecordError``) rather than skipped, because
a ledger with a hole is wrong for ever.

Order: the leader's engine appends a record in the same event-loop step in which it changes its own
state, so the order of the log is the order in which the leader changed. A follower that applies the
records one by one therefore passes through the leader's states.

No record is larger than ``RECORD_BYTES_MAX``. A value that is (a graph of 300 MB) travels ahead as
``BlobPart`` records and the record that means something names the blob. Parts whose naming record
never came are dropped at the next ``TermStarted``: their author is gone.

Keys of Dask tasks (str, bytes, int, float or nested tuples of them) are opaque here: the engine
encodes them with ``encode_key`` and nobody else looks inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import msgpack

RECORD_BYTES_MAX = 768 * 1024  # bytes; below the 1 MiB at which LMDB's p99 and a peer link suffer
BLOB_PART_BYTES = 512 * 1024  # bytes of payload in one BlobPart


class UnknownRecordError(Exception):
    """Storage or peer: the log holds a record of a newer release; upgrade this peer."""


class MalformedRecordError(Exception):
    """Storage or peer: bytes that no release wrote; replace this peer's data directory."""


@dataclass(frozen=True, slots=True)
class TermStarted:
    """A leader's first entry of its term (thesis §6.4): earlier terms' loose blob parts go."""

    KIND: ClassVar[int] = 1
    term: int
    leader: str


@dataclass(frozen=True, slots=True)
class BlobPart:
    """Part ``number`` (from 0) of blob ``blob``; ids are unique within ``term``."""

    KIND: ClassVar[int] = 2
    term: int
    blob: int
    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class GraphSubmitted:
    """A graph the leader has accepted.

    ``graph``: id, unique in the cell: ``term << 32 | n``. ``client``: Dask client id.
    ``(session, sequence)``: the client's request, for exactly-once (thesis §6.3); sequence 0 means
    the client keeps no journal. The fold records the number and filters nothing: to ask before it
    acts is the leader's part. ``payload``: the engine's bytes, or empty when ``blob_parts`` > 0
    parts of blob ``blob`` (of the same term as the graph id) hold them.
    """

    KIND: ClassVar[int] = 3
    graph: int
    client: str
    session: str
    sequence: int
    payload: bytes
    blob: int
    blob_parts: int


@dataclass(frozen=True, slots=True)
class GraphsRetired:
    """None of these graphs' keys is known to the leader any more: their rows may go.

    ``upto``: see ``runs``; a rebuild says only that, of no graphs.
    """

    KIND: ClassVar[int] = 4
    graphs: tuple[int, ...]
    upto: int = 0


@dataclass(frozen=True, slots=True)
class Desired:
    """``client`` (or a pseudo-client) wants keys that belong to ``graph`` (0: to none)."""

    KIND: ClassVar[int] = 5
    graph: int
    client: str
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Released:
    """``client`` no longer wants keys that belong to ``graph`` (0: to none).

    It counts without a ``Desired`` before it, too: a graph's payload implies its client's desires.
    ``upto``: see ``runs``.
    """

    KIND: ClassVar[int] = 6
    graph: int
    client: str
    keys: tuple[bytes, ...]
    upto: int = 0


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The leader forgot these keys of ``graph``: done with and unneeded. Soft: may come late.

    Their errors are withdrawn with them. A follower drops the tasks, and so does a rebuild.
    """

    KIND: ClassVar[int] = 7
    graph: int
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Erred:
    """A task's outcome is an error. ``payload``: the engine's bytes (exception, traceback, blame).

    Retried or recomputed later, it is withdrawn by ``Retried``.
    """

    KIND: ClassVar[int] = 8
    graph: int
    key: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Retried:
    """The keys' errors are withdrawn: a client asked for another run.

    It counts until another outcome of the key: a worker may still report the error of before.
    """

    KIND: ClassVar[int] = 9
    graph: int
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Scattered:
    """Keys whose values were handed over, not computed: only their holders can bring them back."""

    KIND: ClassVar[int] = 10
    client: str
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ScatteredForgotten:
    """Scattered keys that nobody wants or holds any more."""

    KIND: ClassVar[int] = 11
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ClientJoined:
    """A client that a new leader must expect; ``session`` is empty for one without a journal."""

    KIND: ClassVar[int] = 14
    client: str
    session: str


@dataclass(frozen=True, slots=True)
class ClientLeft:
    """The client said goodbye or stayed away too long: its desires and its session are gone.

    ``upto``: see ``runs``.
    """

    KIND: ClassVar[int] = 15
    client: str
    upto: int = 0


@dataclass(frozen=True, slots=True)
class SessionAdvanced:
    """The client holds no journal entry at or below ``floor`` any more; answers there may go."""

    KIND: ClassVar[int] = 16
    session: str
    floor: int


@dataclass(frozen=True, slots=True)
class ValueSet:
    """One named value of a namespace (``space``): plugins, metadata, shuffle run specs, …

    ``value`` is the engine's bytes. Larger values travel as a blob, like a graph's payload.
    """

    KIND: ClassVar[int] = 17
    space: str
    name: bytes
    value: bytes
    blob: int
    blob_parts: int
    term: int


@dataclass(frozen=True, slots=True)
class ValueDeleted:
    """The named value is gone."""

    KIND: ClassVar[int] = 18
    space: str
    name: bytes


@dataclass(frozen=True, slots=True)
class Restarted:
    """``Client.restart``: every graph, desire, error and scattered key before this is void."""

    KIND: ClassVar[int] = 19


@dataclass(frozen=True, slots=True)
class SessionRestored:
    """Only in a rebuild, never in the log: what the ledger knows of one session.

    ``answered`` holds the bounds of the answered ranges above ``floor``: first, last, first, last,
    … (both inclusive, rising). It is what ``sessions.Answers`` takes.
    """

    KIND: ClassVar[int] = 20
    session: str
    floor: int
    answered: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PeerNamed:
    """Who is behind a Raft id, and where. For the daemons; no engine is told.

    ``peer`` is the id, and stands for a disk: a peer that begins anew with an empty one gets
    another id, and a second record under its name. The ids of founders follow from their names, so
    ``disk`` is a number that was drawn when the disk was set up, and tells one from an impostor.
    ``gone``: empty while this disk belongs to the cell, later the end of a sentence that says since
    when it does not, and why.
    """

    KIND: ClassVar[int] = 21
    peer: int
    disk: int
    name: str
    host: str
    peer_port: int
    dask_port: int
    witness: bool
    gone: str


@dataclass(frozen=True, slots=True)
class Called:
    """A call took effect: what it changed and what it was answered, at once.

    ``(session, slot, sequence)``: see ``calls``; an empty session is a caller that does not number
    its calls, whose answer is not kept. ``payload`` is that of ``calls.pack_payload``; a larger one
    travels as a blob of ``term``, like a graph's.
    """

    KIND: ClassVar[int] = 22
    session: str
    slot: int
    sequence: int
    payload: bytes
    blob: int
    blob_parts: int
    term: int


@dataclass(frozen=True, slots=True)
class CallsOpened:
    """A caller is about to make numbered calls: their answers are kept from now on.

    ``owner``: the session of a client, or a worker's id. What it owns ends with a client's session.
    """

    KIND: ClassVar[int] = 23
    session: str
    owner: str


@dataclass(frozen=True, slots=True)
class CallsEnded:
    """The caller is gone, or was silent for longer than it would repeat a call."""

    KIND: ClassVar[int] = 24
    session: str


@dataclass(frozen=True, slots=True)
class AnswerDropped:
    """The answer to the slot's latest call is no longer kept, only that it was answered."""

    KIND: ClassVar[int] = 25
    session: str
    slot: int


@dataclass(frozen=True, slots=True)
class Answered:
    """Requests of a client took effect by the records before this one: they are not done again.

    For requests that have no record of their own, such as a cancellation. ``(session, sequence)``
    as in ``GraphSubmitted``.
    """

    KIND: ClassVar[int] = 26
    client: str
    session: str
    sequences: tuple[int, ...]


Record = (
    TermStarted
    | BlobPart
    | GraphSubmitted
    | GraphsRetired
    | Desired
    | Released
    | Forgotten
    | Erred
    | Retried
    | Scattered
    | ScatteredForgotten
    | ClientJoined
    | ClientLeft
    | SessionAdvanced
    | ValueSet
    | ValueDeleted
    | Restarted
    | SessionRestored
    | PeerNamed
    | Called
    | CallsOpened
    | CallsEnded
    | AnswerDropped
    | Answered
)

_BY_KIND: dict[int, type[Record]] = {cls.KIND: cls for cls in get_args(Record)}
_PEER_NAMED = bytes((0x90 + 1 + len(PeerNamed.__slots__), PeerNamed.KIND))  # msgpack: array, int


def encode(record: Record) -> bytes:
    """One record as bytes: a msgpack array of its kind and fields in declaration order."""
    fields = tuple(getattr(record, name) for name in record.__slots__)
    return bytes(msgpack.packb((record.KIND, *fields), use_bin_type=True))


def is_peer_named(data: bytes) -> bool:
    """Whether ``decode`` would give a ``PeerNamed``; cheap enough to ask of each record."""
    return data[:2] == _PEER_NAMED


def decode(data: bytes) -> Record:
    """The record of ``encode``.

    Raises ``UnknownRecordError`` for a kind of a newer release, ``MalformedRecordError`` for bytes
    that are no record.
    """
    try:
        kind, *fields = msgpack.unpackb(data, raw=False, use_list=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedRecordError(f"not a record of the event stream: {error}") from error
    cls = _BY_KIND.get(kind)
    if cls is None:
        raise UnknownRecordError(
            f"record kind {kind!r} is of a newer release than this one; upgrade this peer"
        )
    try:
        return cls(*fields)
    except TypeError as error:
        raise MalformedRecordError(f"{cls.__name__} with wrong fields: {error}") from error
