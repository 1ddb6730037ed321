"""The channel between a peer daemon and its engine.

One socketpair. Guarantee: records reach the engine in log order, and proposals enter the log in the
order of their ``Propose`` messages. There are no error replies: the end of the stream tells either
side of the other's end within milliseconds, and the log decides the outcome of everything in
flight.

Start: the daemon introduces itself. Once accepted, it sends ``EngineSettings``, under TLS the key
``Ring``, which it sends again at each change, then the ledger as ``RecordCommitted`` with index 0
(the shortest sequence of records that rebuilds it), then ``CaughtUp``. After that each record
follows as it commits; this engine's own proposals come back without their bytes.

Nothing that the engine says is believed because it says it (``peer/engine/engine_rights.py``): it
runs the code of users.

The two also share the leader lease, in one page of memory (``shared_lease.py``). After its end an
active engine writes to no stream of a worker or client, and answers no request. In pages of the
other direction (``shared_exposures.py``) the engine says what it is about to read or run of a
client (``Exposure``): the daemon reads them when the engine has ended.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta

from ha_scheduler.protocol.codec import (
    INT_MAX,
    CellId,
    Message,
    MessageSet,
    Name,
    Number,
    Part,
    Term,
    Text,
    Url,
)
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.protocol.ring import Ring

CONTENT_BYTES = 16
WANTED_MAX = 100_000  # workers of one owner
REFUSAL_CHARS_MAX = 512  # of why a caller was refused
LEAVING_MAX = 1_000  # names for one command; the others are told of after it
Content = Annotated[bytes, Meta(min_length=CONTENT_BYTES, max_length=CONTENT_BYTES)]  # a digest
Counts = Annotated[dict[Annotated[str, Meta(max_length=32)], Number], Meta(max_length=8)]


class Phase(StrEnum):
    """The phases of a failover that an engine reaches."""

    WORKERS_BACK = "workers_back"
    CLIENTS_BACK = "clients_back"
    FIRST_TASK = "first_task"


class EngineSettings(Message, tag="engine-settings"):
    """Daemon: the first message. ``options``: the engine's options of the CLI."""

    cell: str
    name: str
    peers: tuple[PeerAddress, ...]
    options: dict[str, Any]


class RecordCommitted(Message, tag="committed"):
    """Daemon: one record has committed at ``index`` (0 while the ledger is replayed).

    ``proposal``: the number of this engine's own ``Propose``, with empty ``data``; or 0.
    """

    index: Number
    proposal: Number
    data: bytes


class CaughtUp(Message, tag="caught-up"):
    """Daemon: the ledger up to ``index`` was sent; live records follow."""

    index: Number


class Activate(Message, tag="activate"):
    """Daemon: this peer leads in ``term``, and all records of earlier terms were sent. Once.

    ``cell_id``, ``predecessor``: as in ``Welcome``. ``format``: of records, that all members read.
    """

    term: Term
    cell_id: CellId = ""
    predecessor: CellId = ""
    format: Number = 0


class LeaderNamed(Message, tag="leader-named"):
    """Daemon: who leads, for who looks at this engine; again at each change.

    Empty: nobody, as far as this peer knows. ``dashboard``: the URL of the leader's.
    """

    name: Name = ""
    dashboard: Name = ""


class Ping(Message, tag="ping"):
    """Daemon: answer with ``Pong`` of the same number from the engine's event loop."""

    number: Number


class EngineReady(Message, tag="engine-ready"):
    """Engine: the replay up to ``CaughtUp`` is done; it may be activated. Once."""

    dashboard: Url


class Propose(Message, tag="propose"):
    """Engine, active only: append this record. ``proposal`` counts from 1 without gaps."""

    proposal: Number
    data: bytes


class Serving(Message, tag="serving"):
    """Engine: it serves at ``address`` as the leader of ``term``. Once."""

    term: Term
    address: Name


class Mark(Message, tag="mark"):
    """Engine: a phase of the failover to ``term`` was reached (CLOCK_MONOTONIC seconds). Once."""

    term: Term
    phase: Phase
    at: float
    detail: Counts


class Confirm(Message, tag="confirm"):
    """Engine, active only: does this peer lead, now? The next one after the answer to this one."""

    number: Number


class Confirmed(Message, tag="confirmed"):
    """Daemon: a quorum has said so after ``Confirm(number)`` came."""

    number: Number


class ScaleWanted(Message, tag="scale-wanted"):
    """Engine, active only: ``owner`` should have ``total`` workers, and ``leaving`` have been
    retired: for the site's command.
    """

    term: Term
    owner: Name
    total: Annotated[int, Meta(ge=0, le=WANTED_MAX)]
    leaving: Annotated[tuple[Text, ...], Meta(max_length=LEAVING_MAX)] = ()


class CallerRefused(Message, tag="caller-refused"):
    """Engine: it has refused a caller, ``times`` alike since it last said so: for the audit log."""

    subject: Name
    role: Name
    why: Annotated[str, Meta(max_length=REFUSAL_CHARS_MAX)]
    times: Annotated[int, Meta(ge=1, le=INT_MAX)]


class Pong(Message, tag="pong"):
    """Engine: its event loop is alive."""

    number: Number


class Exposure(Part):
    """Engine: it is about to read or run something that a client or worker has sent.

    ``content``: the digest of its bytes, by which it is recognised whoever sends it. ``kind`` and
    ``what`` are for people. ``(client, session, sequence)``: the request, as far as it has one.
    """

    content: Content
    kind: Name
    what: Name
    client: Name = ""
    session: Name = ""
    sequence: Number = 0


ToEngine = (
    EngineSettings | Ring | RecordCommitted | CaughtUp | Activate | Confirmed | LeaderNamed | Ping
)
ToDaemon = EngineReady | Propose | Serving | Mark | Confirm | Pong | ScaleWanted | CallerRefused

TO_ENGINE: MessageSet[ToEngine] = MessageSet(ToEngine)
TO_DAEMON: MessageSet[ToDaemon] = MessageSet(ToDaemon)
