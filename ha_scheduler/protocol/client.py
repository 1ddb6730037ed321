"""What a client and the engine that leads say to each other, beside what upstream's say.

The client's first message of a stream is ``Hello``, the engine's ``Welcome`` or ``Stale``. Then
come the requests that were not acknowledged, and ``Resume``. Requests and answers of upstream's
that have fields of ours in them keep their form; the names of those fields are here.

Numbered calls (``CallId``) are made by clients and workers alike.
"""

from __future__ import annotations

from typing import Any

from ha_scheduler.protocol.codec import (
    MalformedMessage,
    Message,
    Name,
    Number,
    Port,
    Text,
    from_op,
    tag_of,
)

Key = Any  # of a Dask task, or the name of a coordination object; not looked into

#: In a request of the stream: its number in the session, from 1. It is done once.
SEQUENCE = "ha_sequence"
#: Beside the arguments of a call: its ``CallId``.
CALL = "ha_call"
#: In ``cancelled-keys``: what was submitted after this request is not meant; and the number to
#: acknowledge by ``Heard``, or 0.
AFTER, NUMBER = "ha_after", "ha_number"
#: In what a scheduler says of itself (``identity``) and answers to a worker: ``Welcome``.
HA = "ha"

UNKNOWN_KEYS = "unknown-after-failover"  # why the answer to ``Resume`` cancels keys

#: Answers to a numbered call: its session is over; it was done, and its answer is not kept.
EXPIRED = {"status": "ha-call-expired"}
LOST = {"status": "ha-answer-lost"}


class Request(Message, tag="request"):
    """What any request may say of who makes it, be it one of upstream's."""

    client: Text | None = None
    ha_sequence: Number = 0


class RegisterClient(Message, tag="register-client"):
    """What we rely on in upstream's registration of a client."""

    client: Text


class Hello(Message, tag="ha-hello"):
    """The client's first message. ``floor``: no sequence up to it will come again."""

    session: Name
    term: Number  # the highest that the client has seen
    floor: Number


class Resume(Message, tag="ha-resume"):
    """All that a returning client wants, after what it has submitted again.

    ``finished``: the keys whose results it believes to be there. ``heard``: the cancellations of
    which it knows. ``scattering``: the keys of data that it has handed over, and was not answered.
    """

    keys: tuple[Key, ...]
    finished: tuple[Key, ...]
    heard: tuple[Number, ...] = ()
    scattering: tuple[Key, ...] = ()


class Heard(Message, tag="ha-heard"):
    """The client has heard of these cancellations, and need not again."""

    numbers: tuple[Number, ...]


class FireAndForget(Message, tag="ha-fire-and-forget"):
    """These keys are to be computed, whatever becomes of the client."""

    keys: tuple[Key, ...]
    ha_sequence: Number


class Welcome(Message, tag="ha-welcome"):
    """The engine says who leads, and where the cell is. No addresses: it stands alone."""

    term: Number
    cell: Name
    leader: Name
    watch: tuple[tuple[Name, Name, Port], ...] = ()  # the peers: name, host, peer port
    addresses: tuple[Text, ...] = ()  # where engines lead, as Dask writes addresses


class Stale(Message, tag="ha-stale"):
    """The engine's term is over; somebody else leads."""

    term: Number


class Committed(Message, tag="ha-committed"):
    """The cell has these requests of the session."""

    sequences: tuple[Number, ...]


class Subscribed(Message, tag="ha-subscribed"):
    """Of this topic, events after this time will be told, and those before have been."""

    topic: str
    after: float


class OpenCalls(Message, tag="ha-open-calls"):
    """Call: a session of numbered calls, under a name that was never used. May be repeated."""

    session: Name
    owner: Text  # the client's session, or the worker's id


class LockForgotten(Message, tag="ha-lock-forgotten"):
    """Call: whether the lock is not known, and was not closed."""

    name: Key


class CallId(Message, tag="ha-call"):
    """Which call this is: each is done once. A slot has one call at a time."""

    session: Name
    slot: Number
    sequence: Number


_STREAM: dict[str, type[Message]] = {
    tag_of(kind): kind for kind in (Hello, Resume, Heard, FireAndForget)
}


def request(message: Any) -> dict[str, Any]:
    """A message of a client's stream, checked; one of ours is in it as ``message``.

    Raises ``MalformedMessage``.
    """
    if type(message) is not dict or type(message.get("op")) is not str:
        raise MalformedMessage("a message of a stream is a map with an op")
    kind = _STREAM.get(message["op"])
    if kind is not None:
        return {"op": message["op"], "message": from_op(kind, message)}
    from_op(Request, {name: message[name] for name in ("client", SEQUENCE) if name in message})
    return message
