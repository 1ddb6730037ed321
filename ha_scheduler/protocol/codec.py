"""Messages: frozen structs with fields checked by their annotations.

Guarantee: ``MessageSet.decode`` returns a message with the types and ranges of its annotations, or
raises ``ProtocolError`` with the message and the field, for any input. A message is a map of its
fields with its tag as ``op``, in a frame as in a stream of Dask, where distributed dispatches by
``op``.

Unknown fields are ignored; missing ones have their default. The work is msgspec's, in C.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Generic, TypeVar, dataclass_transform, get_args

import msgspec
from msgspec import Meta

INT_MAX = 2**63 - 1
TERM_MAX = 2**31 - 1  # as ``raft.messages.MAX_TERM``: nobody is in a later one
SHOWN_CHARS = 80  # of a remote value in an error

Number = Annotated[int, Meta(ge=0, le=INT_MAX)]  # an index, a count
Seconds = Annotated[float, Meta(ge=0.0, le=1e9)]
Term = Annotated[int, Meta(ge=0, le=TERM_MAX)]
Port = Annotated[int, Meta(ge=1, le=65535)]
CellId = Annotated[str, Meta(max_length=64)]  # empty: the cell has none yet, or the sender
Name = Annotated[str, Meta(max_length=256)]  # of a peer, a feature, a release
Url = Annotated[str, Meta(max_length=64, pattern=r"\A(https?://:[0-9]{1,5})?\Z")]  # of this host
Text = Annotated[str, Meta(max_length=4096)]  # a sentence, or a list of peers

T = TypeVar("T")


class ProtocolError(Exception):
    """Remote: the other side violated the protocol; the connection must end."""


class MalformedMessage(ProtocolError):
    """Remote: a field of a message is missing, of another type or out of range."""


class UnknownMessage(ProtocolError):
    """Remote: a message of a newer release, or one that is not for this side of a connection."""


@dataclass_transform(frozen_default=True)
class Message(msgspec.Struct, frozen=True, tag_field="op"):
    """A message between two processes: ``class Ping(Message, tag="ping")``."""


@dataclass_transform(frozen_default=True)
class Part(msgspec.Struct, frozen=True, array_like=True):
    """A repeated part of messages: an array, without the names of its fields."""


class MessageSet(Generic[T]):
    """The messages that may come from one side of a connection."""

    def __init__(self, kinds: Any) -> None:
        """``kinds``: a class, or a union of classes, as in ``MessageSet[Ping | Pong]``."""
        self._decoder = msgspec.msgpack.Decoder(kinds)
        self._tags = set(map(tag_of, get_args(kinds) or (kinds,)))

    def decode(self, body: bytes | memoryview) -> T:
        """The message of a frame's body. Raises ``MalformedMessage`` and ``UnknownMessage``."""
        try:
            message: T = self._decoder.decode(body)
        except (ValueError, OverflowError, RecursionError) as error:
            raise self._refusal(body, error) from error
        return message

    def _refusal(self, body: bytes | memoryview, error: Exception) -> ProtocolError:
        tag = peek(body, "op")
        if not isinstance(tag, str):
            return MalformedMessage(f"not a message: {error}")
        if tag not in self._tags:
            return UnknownMessage(
                f"there is no message {shown(tag)} here; if the other side is of a newer release, "
                "upgrade this one"
            )
        return MalformedMessage(f"{tag}: {error}")


def tag_of(cls: type[Any]) -> str:
    """The ``op`` of a message's class."""
    return str(cls.__struct_config__.tag)


def to_op(message: Message) -> dict[str, Any]:
    """A message for a stream of Dask, with parts as arrays."""
    fields = {name: _plain(getattr(message, name)) for name in message.__struct_fields__}
    return {"op": tag_of(type(message)), **fields}


def from_op(cls: type[T], fields: Mapping[str, Any]) -> T:
    """The inverse of ``to_op``, with or without ``op``: a handler is called without.

    Raises ``MalformedMessage``.
    """
    try:
        return msgspec.convert(fields, cls, builtin_types=(bytes,))
    except (ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage(f"{tag_of(cls)}: {error}") from error


def peek(body: bytes | memoryview, field: str) -> Any:
    """One field of an unchecked message, or None."""
    try:
        return msgspec.msgpack.decode(body, type=dict[str, Any]).get(field)
    except (ValueError, OverflowError, RecursionError):
        return None


def shown(value: Any) -> str:
    """A remote value, shortened for an error."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        fields = tuple(_plain(getattr(value, name)) for name in value.__struct_fields__)
        tag = value.__struct_config__.tag
        return fields if tag is None else (tag, *fields)
    if type(value) is tuple and any(isinstance(item, Part) for item in value):
        return tuple(map(_plain, value))
    return value
