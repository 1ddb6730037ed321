"""The protocol between a client and the leading engine, beside upstream's.

The client's first message of a stream is ``Hello``, the engine's ``Welcome`` or ``Stale``. Then
come the unacknowledged requests, and ``Resume``. Upstream's requests and answers keep their form;
the names of our fields in them are here.

Numbered calls (``CallId``) are for clients and workers.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from ha_scheduler.protocol.codec import (
    CellId,
    MalformedMessage,
    Message,
    Name,
    Number,
    Port,
    Seconds,
    Term,
    Text,
    from_op,
    tag_of,
)

Key = Any  # of a Dask task, or the name of a coordination object; opaque

#: In a request of the stream: its number in the session, from 1, which makes it idempotent.
SEQUENCE = "ha_sequence"
#: Beside the arguments of a call: its ``CallId``.
CALL = "ha_call"
#: Beside the arguments of a call that names a client: the session of that client, which the client
#: alone knows.
SESSION = "ha_session"
#: Whom Dask itself has for a client (queues.py, variable.py, publish.py): nobody registers as one.
FIRE_AND_FORGET = "fire-and-forget"
PSEUDO_CLIENTS = ("queue-", "variable-", "published-", FIRE_AND_FORGET)
#: In ``cancelled-keys``: it excludes submissions after this request; and the number to acknowledge
#: by ``Heard``, or 0.
AFTER, NUMBER = "ha_after", "ha_number"
#: In ``identity`` and in the answer to a worker: ``Welcome``.
HA = "ha"

#: What a client is told that would not outlive the leader.
NOT_HA = (
    "This scheduler is a cell that outlives its leader, and this client does not: the futures of a "
    "plain distributed.Client end with the leader that it is connected to. Give Client the cluster "
    "object or the ha:// address of the cell, take client_replay.Client, or set DASK_CONFIG to the "
    "dask.yaml that `dask-ha-scheduler init` wrote."
)

#: Reasons for cancelled keys after ``Resume``: the cell does not know them, or it knows nothing
#: any more of the client that wants them.
UNKNOWN_KEYS, SESSION_ENDED = "unknown-after-failover", "session-ended"

#: Answers to a numbered call: its session has expired; it was done, and its answer is lost.
EXPIRED = {"status": "ha-call-expired"}
LOST = {"status": "ha-answer-lost"}


class Request(Message, tag="request"):
    """The sender's fields of any request, upstream's included."""

    client: Text | None = None
    ha_sequence: Number = 0
    ha_session: Name | None = None


class RegisterClient(Message, tag="register-client"):
    """The fields that we need of upstream's registration of a client."""

    client: Text


class Hello(Message, tag="ha-hello"):
    """The client's first message. ``floor``: sequences up to it are over.

    ``cell_id``: of which cell it is, and the term. ``silent_s``, ``closed_s``: for how long its
    keys are to be kept when it falls silent, or its connection is closed; 0: for as long as usual.
    ``task``: that of a worker for which the client was made; it acts for who has submitted that.
    ``taken``: when this process took the session over, in ns since the epoch; 0: it has begun it.
    """

    session: Name
    term: Term  # the highest that the client has seen
    floor: Number
    cell_id: CellId = ""
    silent_s: Seconds = 0.0
    closed_s: Seconds = 0.0
    task: Key | None = None
    taken: Number = 0


class Resume(Message, tag="ha-resume"):
    """All desires of a returning client, after its resubmissions.

    ``finished``: keys with results, as far as it knows. ``heard``: acknowledged cancellations.
    ``scattering``: keys of scattered data without an acknowledgement.
    """

    keys: tuple[Key, ...]
    finished: tuple[Key, ...]
    heard: tuple[Number, ...] = ()
    scattering: tuple[Key, ...] = ()


class Heard(Message, tag="ha-heard"):
    """The client acknowledges these cancellations."""

    numbers: tuple[Number, ...]


class FireAndForget(Message, tag="ha-fire-and-forget"):
    """Compute these keys, even without the client."""

    keys: tuple[Key, ...]
    ha_sequence: Number


class Welcome(Message, tag="ha-welcome"):
    """The leader and the addresses of the cell. Without addresses: a standalone engine.

    ``predecessor``: the id of the cell from whose ledger this one was founded, or empty. ``ring``:
    a ``Ring``, by which a worker judges its callers; empty where nobody asks for tokens.
    """

    term: Term
    cell: Name
    leader: Name
    watch: tuple[tuple[Name, Name, Port], ...] = ()  # the peers: name, host, peer port
    addresses: tuple[Text, ...] = ()  # of engines, as Dask writes them
    cell_id: CellId = ""
    predecessor: CellId = ""
    ring: bytes = b""


class Stale(Message, tag="ha-stale"):
    """The engine's term is over."""

    term: Term


class Committed(Message, tag="ha-committed"):
    """Acknowledgement: these requests of the session have committed."""

    sequences: tuple[Number, ...]


class Subscribed(Message, tag="ha-subscribed"):
    """Events of this topic after this time will be sent; earlier ones were."""

    topic: str
    after: float


class OpenCalls(Message, tag="ha-open-calls"):
    """Call: a session of numbered calls, under a unique name. Idempotent."""

    session: Name
    owner: Text  # the client's session, or the worker's id


class Detach(Message, tag="ha-detach"):
    """Call: the client goes, and another process will come for its session."""

    client: Text


class SessionKeys(Message, tag="ha-session-keys"):
    """Call: the keys that a client wants, and the last number that it used."""

    client: Text


class ListSessions(Message, tag="ha-sessions"):
    """Call: the sessions of the cell."""

    client: Text


class CancelSession(Message, tag="ha-cancel-session"):
    """Call: cancel all that a session wants."""

    client: Text
    session: Text  # by its name in the list


class Scale(Message, tag="ha-scale"):
    """Call: what an owner of workers wants of the cell; answered with what it should have.

    ``policy``: "load" or "fixed". ``maximum``: None for no bound. ``target_s``: how long the work
    that is there should take. ``command``: the leading daemon runs the site's command.
    """

    owner: Annotated[str, Meta(min_length=1, max_length=256)]
    policy: Name = "load"
    minimum: Number = 0
    maximum: Number | None = None
    target_s: Seconds = 5.0
    command: bool = False


class Unscale(Message, tag="ha-unscale"):
    """Call: the owner wants nothing any more."""

    owner: Name


class ScalingOf(Message, tag="ha-scaling"):
    """Call: what every owner should have, and has."""


class LockForgotten(Message, tag="ha-lock-forgotten"):
    """Call: whether the lock is unknown, and was not closed."""

    name: Key


class CallId(Message, tag="ha-call"):
    """The identity of a call, which is done once. A slot has one call at a time."""

    session: Name
    slot: Number
    sequence: Number


_OF_THE_SENDER = ("client", SEQUENCE)
_STREAM: dict[str, type[Message]] = {
    tag_of(kind): kind for kind in (Hello, Resume, Heard, FireAndForget)
}


def request(message: Any) -> dict[str, Any]:
    """A checked message of a client's stream; ours are parsed into ``message``.

    Raises ``MalformedMessage``.
    """
    if type(message) is not dict or type(message.get("op")) is not str:
        raise MalformedMessage("a message of a stream is a map with an op")
    kind = _STREAM.get(message["op"])
    if kind is not None:
        return {"op": message["op"], "message": from_op(kind, message)}
    if any(name in message for name in _OF_THE_SENDER):
        from_op(Request, {name: message[name] for name in _OF_THE_SENDER if name in message})
    return message
