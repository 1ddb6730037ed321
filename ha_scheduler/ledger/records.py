"""The records of the event stream: what must survive and no worker can tell.

Guarantee: ``decode(encode(record)) == record`` for every record of this release, each field of the
type and range of its annotation. What a newer release has written is refused as such
(``UnknownRecordError``) rather than skipped or guessed, because a ledger with a hole is wrong for
ever: a record or a field that this release does not know, or all that follows the ``TermStarted``
of a leader whose ``FORMAT`` is higher.

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

from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

from ha_scheduler.protocol.codec import Number, Part

#: Raised by whatever changes records, the ledger's tables, the engine's replicated tables, or what
#: the fold does.
FORMAT = 2
RECORD_BYTES_MAX = 768 * 1024  # bytes; below the 1 MiB at which LMDB's p99 and a peer link suffer
BLOB_PART_BYTES = 512 * 1024  # bytes of payload in one BlobPart


class UnknownRecordError(Exception):
    """Storage or peer: a newer release has written this; upgrade this peer."""


class MalformedRecordError(Exception):
    """Storage or peer: bytes that no release wrote; replace this peer's data directory."""


class _Record(Part, forbid_unknown_fields=True):
    """An array of its kind (``tag``) and its fields in the order of declaration."""


class TermStarted(_Record, tag=1):
    """A leader's first entry of its term (thesis §6.4): earlier terms' loose blob parts go.

    ``format``: that of the release that leads.
    """

    term: Number
    leader: str
    format: Annotated[int, Meta(ge=1, le=FORMAT)] = FORMAT


class BlobPart(_Record, tag=2):
    """Part ``number`` (from 0) of blob ``blob``; ids are unique within ``term``."""

    term: Number
    blob: Number
    number: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    data: bytes


class GraphSubmitted(_Record, tag=3):
    """A graph the leader has accepted.

    ``graph``: id, unique in the cell: ``term << 32 | n``. ``client``: Dask client id.
    ``(session, sequence)``: the client's request, for exactly-once (thesis §6.3); sequence 0 means
    the client keeps no journal. The fold records the number and filters nothing: to ask before it
    acts is the leader's part. ``payload``: the engine's bytes, or empty when ``blob_parts`` > 0
    parts of blob ``blob`` (of the same term as the graph id) hold them.
    """

    graph: Number
    client: str
    session: str
    sequence: Number
    payload: bytes
    blob: Number
    blob_parts: Number


class GraphsRetired(_Record, tag=4):
    """None of these graphs' keys is known to the leader any more: their rows may go.

    ``upto``: see ``runs``; a rebuild says only that, of no graphs.
    """

    graphs: tuple[Number, ...]
    upto: Number = 0


class Desired(_Record, tag=5):
    """``client`` (or a pseudo-client) wants keys that belong to ``graph`` (0: to none)."""

    graph: Number
    client: str
    keys: tuple[bytes, ...]


class Released(_Record, tag=6):
    """``client`` no longer wants keys that belong to ``graph`` (0: to none).

    It counts without a ``Desired`` before it, too: a graph's payload implies its client's desires.
    ``upto``: see ``runs``.
    """

    graph: Number
    client: str
    keys: tuple[bytes, ...]
    upto: Number = 0


class Forgotten(_Record, tag=7):
    """The leader forgot these keys of ``graph``: done with and unneeded. Soft: may come late.

    Their errors are withdrawn with them. A follower drops the tasks, and so does a rebuild.
    """

    graph: Number
    keys: tuple[bytes, ...]


class Erred(_Record, tag=8):
    """A task's outcome is an error. ``payload``: the engine's bytes (exception, traceback, blame).

    Retried or recomputed later, it is withdrawn by ``Retried``.
    """

    graph: Number
    key: bytes
    payload: bytes


class Retried(_Record, tag=9):
    """The keys' errors are withdrawn: a client asked for another run.

    It counts until another outcome of the key: a worker may still report the error of before.
    """

    graph: Number
    keys: tuple[bytes, ...]


class Scattered(_Record, tag=10):
    """Keys whose values were handed over, not computed: only their holders can bring them back."""

    client: str
    keys: tuple[bytes, ...]


class ScatteredForgotten(_Record, tag=11):
    """Scattered keys that nobody wants or holds any more."""

    keys: tuple[bytes, ...]


class ClientJoined(_Record, tag=14):
    """A client that a new leader must expect; ``session`` is empty for one without a journal."""

    client: str
    session: str


class ClientLeft(_Record, tag=15):
    """The client said goodbye or stayed away too long: its desires and its session are gone.

    ``upto``: see ``runs``.
    """

    client: str
    upto: Number = 0


class SessionAdvanced(_Record, tag=16):
    """The client holds no journal entry at or below ``floor`` any more; answers there may go."""

    session: str
    floor: Number


class ValueSet(_Record, tag=17):
    """One named value of a namespace (``space``): plugins, metadata, shuffle run specs, …

    ``value`` is the engine's bytes. Larger values travel as a blob, like a graph's payload.
    """

    space: str
    name: bytes
    value: bytes
    blob: Number
    blob_parts: Number
    term: Number


class ValueDeleted(_Record, tag=18):
    """The named value is gone."""

    space: str
    name: bytes


class Restarted(_Record, tag=19):
    """``Client.restart``: every graph, desire, error and scattered key before this is void."""


class SessionRestored(_Record, tag=20):
    """Only in a rebuild, never in the log: what the ledger knows of one session.

    ``answered`` holds the bounds of the answered ranges above ``floor``: first, last, first, last,
    … (both inclusive, rising). It is what ``sessions.Answers`` takes.
    """

    session: str
    floor: Number
    answered: tuple[Number, ...]


class PeerNamed(_Record, tag=21):
    """Who is behind a Raft id, and where. For the daemons; no engine is told.

    ``peer`` is the id, and stands for a disk: a peer that begins anew with an empty one gets
    another id, and a second record under its name. The ids of founders follow from their names, so
    ``disk`` is a number that was drawn when the disk was set up, and tells one from an impostor.
    ``gone``: empty while this disk belongs to the cell, later the end of a sentence that says since
    when it does not, and why.
    """

    peer: Number
    disk: Number
    name: str
    host: str
    peer_port: Number
    dask_port: Number
    witness: bool
    gone: str


class Called(_Record, tag=22):
    """A call took effect: what it changed and what it was answered, at once.

    ``(session, slot, sequence)``: see ``calls``; an empty session is a caller that does not number
    its calls, whose answer is not kept. ``payload`` is that of ``calls.pack_payload``; a larger one
    travels as a blob of ``term``, like a graph's.
    """

    session: str
    slot: Number
    sequence: Number
    payload: bytes
    blob: Number
    blob_parts: Number
    term: Number


class CallsOpened(_Record, tag=23):
    """A caller is about to make numbered calls: their answers are kept from now on.

    ``owner``: the session of a client, or a worker's id. What it owns ends with a client's session.
    """

    session: str
    owner: str


class CallsEnded(_Record, tag=24):
    """The caller is gone, or was silent for longer than it would repeat a call."""

    session: str


class AnswerDropped(_Record, tag=25):
    """The answer to the slot's latest call is no longer kept, only that it was answered."""

    session: str
    slot: Number


class Answered(_Record, tag=26):
    """Requests of a client took effect by the records before this one: they are not done again.

    For requests that have no record of their own, such as a cancellation. ``(session, sequence)``
    as in ``GraphSubmitted``.
    """

    client: str
    session: str
    sequences: tuple[Number, ...]


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

KINDS: dict[Any, type[Record]] = {cls.__struct_config__.tag: cls for cls in get_args(Record)}
_DECODER = msgspec.msgpack.Decoder(Record)
_PEER_NAMED = msgspec.msgpack.encode(PeerNamed(1, 0, "", "", 0, 0, False, ""))[:2]  # array, kind


def encode(record: Record) -> bytes:
    """One record as bytes: a msgpack array of its kind and fields in declaration order."""
    return msgspec.msgpack.encode(record)


def is_peer_named(data: bytes) -> bool:
    """Whether ``decode`` would give a ``PeerNamed``; cheap enough to ask of each record."""
    return data[:2] == _PEER_NAMED


def decode(data: bytes) -> Record:
    """The record of ``encode``.

    Raises ``UnknownRecordError`` for what a newer release wrote, ``MalformedRecordError`` for bytes
    that are no record.
    """
    try:
        record: Record = _DECODER.decode(data)
    except (ValueError, OverflowError, RecursionError) as error:
        raise _refusal(data, error) from error
    return record


def _refusal(data: bytes, error: Exception) -> UnknownRecordError | MalformedRecordError:
    try:
        kind, *fields = msgspec.msgpack.decode(data, type=list[Any])
    except (ValueError, OverflowError, RecursionError):
        return MalformedRecordError(f"not a record of the event stream: {error}")
    cls = KINDS.get(kind) if type(kind) is int else None
    newer = f"was written by a newer release than this one (format {FORMAT}); upgrade this peer"
    if cls is None:
        return UnknownRecordError(f"record kind {kind!r} {newer}")
    if len(fields) > len(cls.__struct_fields__):
        return UnknownRecordError(f"{cls.__name__} with {len(fields)} fields {newer}")
    if cls is TermStarted and len(fields) > 2 and type(fields[2]) is int and fields[2] > FORMAT:
        return UnknownRecordError(f"all of term {fields[0]}, of format {fields[2]}, {newer}")
    return MalformedRecordError(f"{cls.__name__}: {error}")
