"""The records of the event stream: what must survive and no worker can tell.

Guarantee: each field of a record is of the type, range and length of its annotation, so that no
rule of the fold fails for what a field holds (``encoding.py`` makes records of bytes). A record of
a newer release is refused rather than skipped or guessed, because a ledger with a hole is wrong for
ever.

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

from itertools import pairwise
from typing import Annotated, Any, get_args

from msgspec import Meta

from ha_scheduler.protocol.codec import INT_MAX, Number, Part
from ha_scheduler.protocol.engine import CONTENT_BYTES, Content, Exposure
from ha_scheduler.protocol.ring import Key as PublicKey
from ha_scheduler.protocol.ring import TokenId

#: Raised by whatever changes records, the ledger's tables, the engine's replicated tables, or what
#: the fold does.
FORMAT = 3
RECORD_BYTES_MAX = 768 * 1024  # bytes; below the 1 MiB at which LMDB's p99 and a peer link suffer
BLOB_PART_BYTES = 512 * 1024  # bytes of payload in one BlobPart
INLINE_BYTES_MAX = 256 * 1024  # bytes; a larger payload travels as blob parts
BLOB_PARTS_MAX = 64 * 1024  # 32 GiB of a graph or a value, which nobody here holds in memory
CALL_PARTS_MAX = 1024  # 512 MiB of a call's changes and answer, which are read as one
TASK_KEY_BYTES_MAX = 256 * 1024  # bytes; what a record holds beside a key fits in the rest
ROW_NAME_BYTES_MAX = 384 * 1024  # bytes; a value may be named for a task, and more
NAME_CHARS_MAX = 4096  # of a client, a session, an owner or a space
SCOPES_BYTES_MAX = 4096  # of one token
RANGES_MAX = 1024  # answered ranges of one session; about 10 KB of row

Id = Annotated[int, Meta(ge=1, le=INT_MAX)]
Name = Annotated[str, Meta(max_length=NAME_CHARS_MAX)]
TaskKey = Annotated[bytes, Meta(max_length=TASK_KEY_BYTES_MAX)]
RowName = Annotated[bytes, Meta(max_length=ROW_NAME_BYTES_MAX)]
Inline = Annotated[bytes, Meta(max_length=RECORD_BYTES_MAX)]
Parts = Annotated[int, Meta(ge=0, le=BLOB_PARTS_MAX)]
Port = Annotated[int, Meta(ge=0, le=65535)]
OPEN_MAX = 8  # exposures of one ``EngineEnded``
DEATHS_MAX = 4  # of one case: twice what it takes to set its content aside
CellId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]  # 128 bits
OtherCell = Annotated[str, Meta(pattern="^([0-9a-f]{32})?$")]  # or none


class _Record(Part, forbid_unknown_fields=True):
    """An array of its kind (``tag``) and its fields in the order of declaration."""


class TermStarted(_Record, tag=1):
    """A leader's first entry of its term (thesis §6.4): earlier terms' loose blob parts go.

    ``format``: that of the release that leads.
    """

    term: Number
    leader: Name
    format: Annotated[int, Meta(ge=1, le=FORMAT)] = FORMAT


class BlobPart(_Record, tag=2):
    """Part ``number`` (from 0) of blob ``blob``; ids are unique within ``term``."""

    term: Number
    blob: Number
    number: Annotated[int, Meta(ge=0, lt=BLOB_PARTS_MAX)]
    data: Annotated[bytes, Meta(max_length=BLOB_PART_BYTES)]


class GraphSubmitted(_Record, tag=3):
    """A graph the leader has accepted.

    ``graph``: id, unique in the cell: ``term << 32 | n``. ``client``: Dask client id.
    ``(session, sequence)``: the client's request, for exactly-once (thesis §6.3); sequence 0 means
    the client keeps no journal. The fold records the number and filters nothing: to ask before it
    acts is the leader's part. ``payload``: the engine's bytes, or empty when ``blob_parts`` > 0
    parts of blob ``blob`` (of the same term as the graph id) hold them. ``content``: the digest of
    what the client sent, by which every engine tells whether it may read it (``quarantine``).
    ``subject``: as in ``ClientJoined``.
    """

    graph: Id
    client: Name
    session: Name
    sequence: Number
    payload: Inline
    blob: Number
    blob_parts: Parts
    content: Annotated[bytes, Meta(max_length=CONTENT_BYTES)] = b""
    subject: Name = ""


class GraphsRetired(_Record, tag=4):
    """None of these graphs' keys is known to the leader any more: their rows may go.

    ``upto``: see ``runs``; a rebuild says only that, of no graphs.
    """

    graphs: tuple[Number, ...]
    upto: Number = 0


class Desired(_Record, tag=5):
    """``client`` (or a pseudo-client) wants keys that belong to ``graph`` (0: to none)."""

    graph: Number
    client: Name
    keys: tuple[TaskKey, ...]


class Released(_Record, tag=6):
    """``client`` no longer wants keys that belong to ``graph`` (0: to none).

    It counts without a ``Desired`` before it, too: a graph's payload implies its client's desires.
    ``upto``: see ``runs``.
    """

    graph: Number
    client: Name
    keys: tuple[TaskKey, ...]
    upto: Number = 0


class Forgotten(_Record, tag=7):
    """The leader forgot these keys of ``graph``: done with and unneeded. Soft: may come late.

    Their errors are withdrawn with them. A follower drops the tasks, and so does a rebuild.
    """

    graph: Number
    keys: tuple[TaskKey, ...]


class Erred(_Record, tag=8):
    """A task's outcome is an error. ``payload``: the engine's bytes (exception, traceback, blame).

    Retried or recomputed later, it is withdrawn by ``Retried``.
    """

    graph: Number
    key: TaskKey
    payload: Inline


class Retried(_Record, tag=9):
    """The keys' errors are withdrawn: a client asked for another run.

    It counts until another outcome of the key: a worker may still report the error of before.
    """

    graph: Number
    keys: tuple[TaskKey, ...]


class Scattered(_Record, tag=10):
    """Keys whose values were handed over, not computed: only their holders can bring them back."""

    client: Name
    keys: tuple[TaskKey, ...]


class ScatteredForgotten(_Record, tag=11):
    """Scattered keys that nobody wants or holds any more."""

    keys: tuple[TaskKey, ...]


class ClientJoined(_Record, tag=14):
    """A client that a new leader must expect; ``session`` is empty for one without a journal.

    ``subject``: whose it is, by the token or certificate that it showed; empty on plaintext.
    ``scopes``: the engine's bytes; what narrows that subject, empty for nothing.
    """

    client: Name
    session: Name
    subject: Name = ""
    scopes: Annotated[bytes, Meta(max_length=SCOPES_BYTES_MAX)] = b""


class ClientLeft(_Record, tag=15):
    """The client said goodbye or stayed away too long: its desires and its session are gone.

    ``upto``: see ``runs``.
    """

    client: Name
    upto: Number = 0


class SessionAdvanced(_Record, tag=16):
    """The client holds no journal entry at or below ``floor`` any more; answers there may go."""

    session: Name
    floor: Number


class ValueSet(_Record, tag=17):
    """One named value of a namespace (``space``): plugins, metadata, shuffle run specs, …

    ``value`` is the engine's bytes. Larger values travel as a blob, like a graph's payload.
    """

    space: Name
    name: RowName
    value: Inline
    blob: Number
    blob_parts: Parts
    term: Number


class ValueDeleted(_Record, tag=18):
    """The named value is gone."""

    space: Name
    name: RowName


class Restarted(_Record, tag=19):
    """``Client.restart``: every graph, desire, error and scattered key before this is void."""


class SessionRestored(_Record, tag=20):
    """Only in a rebuild, never in the log: what the ledger knows of one session.

    ``answered`` holds the bounds of the answered ranges above ``floor``: first, last, first, last,
    … (both inclusive, rising). It is what ``sessions.Answers`` takes.
    """

    session: Name
    floor: Number
    answered: Annotated[tuple[Number, ...], Meta(max_length=2 * RANGES_MAX)]

    def __post_init__(self) -> None:
        steps = [after - before for before, after in pairwise((self.floor, *self.answered))]
        if len(steps) % 2 or min(steps[::2], default=2) < 2 or min(steps[1::2], default=0) < 0:
            raise ValueError("`answered` has no ranges above the floor, first and last of each")


class PeerNamed(_Record, tag=21):
    """Who is behind a Raft id, and where. For the daemons; no engine is told.

    ``peer`` is the id, and stands for a disk: a peer that begins anew with an empty one gets
    another id, and a second record under its name. The ids of founders follow from their names, so
    ``disk`` is a number that was drawn when the disk was set up, and tells one from an impostor.
    ``gone``: empty while this disk belongs to the cell, later the end of a sentence that says since
    when it does not, and why. ``learner``: it is to stay one until an operator promotes it.
    """

    peer: Number
    disk: Number
    name: Name
    host: Name
    peer_port: Port
    dask_port: Port
    witness: bool
    gone: Name
    learner: bool = False


class Called(_Record, tag=22):
    """A call took effect: what it changed and what it was answered, at once.

    ``(session, slot, sequence)``: see ``calls``; an empty session is a caller that does not number
    its calls, whose answer is not kept. ``payload`` is that of ``calls.pack_payload``; a larger one
    travels as a blob of ``term``, like a graph's.
    """

    session: Name
    slot: Number
    sequence: Number
    payload: Inline
    blob: Number
    blob_parts: Annotated[int, Meta(ge=0, le=CALL_PARTS_MAX)]
    term: Number


class CallsOpened(_Record, tag=23):
    """A caller is about to make numbered calls: their answers are kept from now on.

    ``owner``: the session of a client, or a worker's id. What it owns ends with a client's session.
    ``subject``: as in ``ClientJoined``.
    """

    session: Name
    owner: Name
    subject: Name = ""


class CallsEnded(_Record, tag=24):
    """The caller is gone, or was silent for longer than it would repeat a call."""

    session: Name


class AnswerDropped(_Record, tag=25):
    """The answer to the slot's latest call is no longer kept, only that it was answered."""

    session: Name
    slot: Number


class Answered(_Record, tag=26):
    """Requests of a client took effect by the records before this one: they are not done again.

    For requests that have no record of their own, such as a cancellation. ``(session, sequence)``
    as in ``GraphSubmitted``.
    """

    client: Name
    session: Name
    sequences: tuple[Number, ...]


class RecordRejected(_Record, tag=27):
    """Only in a rebuild, never in the log: the record at ``index`` could not be applied.

    ``count``: how many of the log could not, with this one. ``kind``: that of the record, or 0.
    ``digest``: of its bytes.
    """

    count: Id
    index: Number
    term: Number
    kind: Number
    size: Number
    digest: Annotated[bytes, Meta(max_length=16)]
    reason: Name


class Death(Part):
    """An engine ended while something was open: one entry of a case.

    ``led``: as the leader of ``term``. ``at``: seconds since the epoch, by its daemon's clock.
    ``alone``: nothing else was open.
    """

    id: Number
    peer: Name
    term: Number
    led: bool
    cause: Name
    at: Number
    alone: bool


class EngineEnded(_Record, tag=28):
    """An engine ended by itself while it read or ran these. Proposed by the leader's daemon.

    ``id``: drawn by the daemon of that engine, which tells it until it has committed. Else as in
    ``Death``.
    """

    id: Number
    peer: Name
    term: Number
    led: bool
    cause: Name
    at: Number
    open: Annotated[tuple[Exposure, ...], Meta(max_length=OPEN_MAX)]


class CaseRestored(_Record, tag=29):
    """Only in a rebuild, never in the log: a case of the quarantine (``quarantine.py``)."""

    exposure: Exposure
    deaths: Annotated[tuple[Death, ...], Meta(max_length=DEATHS_MAX)]


class CaseReleased(_Record, tag=30):
    """An operator lets this content be tried again, as if it had never ended an engine."""

    content: Content


class CellFounded(_Record, tag=31):
    """Which cell this is. For the daemons; no engine is told. The first of a ledger counts.

    ``cell``: an id drawn at random by its first leader, or by who founded it from a ledger; then
    ``predecessor`` is the id of the cell whose ledger that was, else empty. ``founder``: the peer.
    """

    cell: CellId
    predecessor: OtherCell
    founder: Name


class SigningKeyAdded(_Record, tag=32):
    """Tokens that this key has signed hold. For the daemons; no engine is told.

    ``key``: the public part, of the pair that the daemon of ``peer`` made for itself. ``at``:
    seconds since the epoch, by its clock.
    """

    key: PublicKey
    peer: Name
    at: Number


class SigningKeyRetired(_Record, tag=33):
    """Tokens of this key hold no longer."""

    key: PublicKey


class TokenIssued(_Record, tag=34):
    """A token was issued, or renewed: then it keeps its id. The token itself is nowhere here.

    Times are in seconds since the epoch. ``scopes``: what narrows it, as JSON. ``by``: who asked.
    """

    token: TokenId
    subject: Name
    role: Name
    issued: Number
    expires: Number
    scopes: Name
    by: Name


class TokenRevoked(_Record, tag=35):
    """The token with this id holds no longer, and neither does what it is renewed to.

    ``expires``: of the token, as far as it was known. ``by``: who asked.
    """

    token: TokenId
    expires: Number
    at: Number
    by: Name


class MaintenanceSet(_Record, tag=36):
    """An operator's order on who stands for election (``maintenance``).

    ``peer``: who is drained; empty: all, nobody takes over by itself. ``active``: whether the order
    is given or lifted. ``until``: seconds since the epoch at which it ends by itself; 0: it does
    not. ``by``: who asked, ``at`` when.
    """

    peer: Name
    active: bool
    until: Number
    by: Name
    at: Number


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
    | RecordRejected
    | EngineEnded
    | CaseRestored
    | CaseReleased
    | CellFounded
    | SigningKeyAdded
    | SigningKeyRetired
    | TokenIssued
    | TokenRevoked
    | MaintenanceSet
)

KINDS: dict[Any, type[Record]] = {cls.__struct_config__.tag: cls for cls in get_args(Record)}

#: The ``FORMAT`` with which a kind of record came, if not the first one: none is written before all
#: members of the cell read that format.
SINCE: dict[type[Any], int] = {}
#: The ``FORMAT`` with which each of the last fields of a kind came, in their order. Where a member
#: does not read it, they are left out; so they have defaults, which an older release means as well.
ADDED: dict[type[Any], tuple[int, ...]] = {}
