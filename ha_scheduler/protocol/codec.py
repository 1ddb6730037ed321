"""Messages: frozen dataclasses on one side, arrays that msgpack takes on the other.

Guarantee: ``MessageSet.decode`` returns a message whose every field has the type and the range of
its annotation, or raises ``ProtocolError`` with the name of the message and of the field, whatever
it is given. A message is ``[tag, field, field, …]`` in the order of declaration, wherever it
stands; in a stream of Dask it is ``{"op": tag, field: …}``, because distributed dispatches those.

Annotations: ``int`` is a number from 0 to ``INT_MAX``, other ranges are ``Annotated[int, Range]``;
``str``, ``bytes`` and ``tuple[X, ...]`` are as long as the frame lets them unless ``Size`` bounds
them; ``float`` is finite; ``bool``, ``Any``, enumerations, ``dict``, ``X | None``, messages, and
unions of messages.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, call
from typing import (
    Annotated,
    Any,
    Generic,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

INT_MAX = 2**63 - 1
SHOWN_CHARS = 80  # of what the other side sent, in an error

T = TypeVar("T")
Reader = Callable[[Any], Any]  # the value of a field, or ``_Wrong``


class ProtocolError(Exception):
    """Remote: the other side sent what this protocol does not allow; the connection must end."""


class MalformedMessage(ProtocolError):
    """Remote: a field of a message is missing, of another type or out of range."""


class UnknownMessage(ProtocolError):
    """Remote: a message of a newer release, or one that is not for this side of a connection."""


class _Wrong(Exception):
    """What is wrong with a value, as the end of a sentence that begins with its field."""


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Bounds of an integer, both inclusive."""

    least: int
    most: int


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """The greatest length of a string (characters), byte string or tuple."""

    most: int


Name = Annotated[str, Size(256)]  # of a peer, a feature, a release
Text = Annotated[str, Size(4096)]  # a sentence, or a list of peers
Port = Annotated[int, Range(1, 65535)]


@dataclass_transform(frozen_default=True)
def message(tag: str | int) -> Callable[[type[T]], type[T]]:
    """Make a class a message: a frozen, slotted dataclass that is ``tag`` on the wire."""

    def decorate(cls: type[T]) -> type[T]:
        made = dataclasses.dataclass(frozen=True, slots=True)(cls)
        _TAGS[made] = tag
        return made

    return decorate


def tag_of(cls: type[Any]) -> str | int:
    """The tag of a message's class."""
    return _TAGS[cls]


def encode(value: Any) -> tuple[Any, ...]:
    """``[tag, field, …]``; messages in fields stay as they are. Raises ``TypeError``.

    ``msgpack.packb`` takes it as its ``default``, and so encodes messages wherever they stand.
    """
    schema = _schema(type(value))
    return (schema.tag, *schema.values(value))


def to_op(value: Any) -> dict[str, Any]:
    """A message for a stream of Dask: a map with its tag as ``op``."""
    schema = _schema(type(value))
    fields = zip(schema.names, map(_plain, schema.values(value)), strict=True)
    return {"op": schema.tag, **dict(fields)}


def from_op(cls: type[T], fields: Mapping[str, Any]) -> T:
    """The inverse of ``to_op``, whether or not ``op`` is among the fields.

    Raises ``MalformedMessage``.
    """
    made: T = _schema(cls).make(fields)
    return made


class MessageSet(Generic[T]):
    """The messages that may come from one side of a connection."""

    def __init__(self, *classes: type[T], whole: bool = False) -> None:
        """``whole``: nothing may be ignored, so a field more makes a message an unknown one."""
        schemas = map(_schema, classes)
        self._readers = {s.tag: s.read_whole if whole else s.read for s in schemas}

    def decode(self, value: Any) -> T:
        """The message of ``encode``. Raises ``MalformedMessage`` and ``UnknownMessage``."""
        if type(value) not in (tuple, list) or not value:
            raise MalformedMessage(f"not a message: {shown(value)}")
        tag = value[0]
        read = self._readers.get(tag) if type(tag) in (str, int) else None
        if read is None:
            raise UnknownMessage(
                f"there is no message {shown(tag)} here; if the other side is of a newer release, "
                "upgrade this one"
            )
        message: T = read(value)
        return message


def shown(value: Any) -> str:
    """What the other side sent, short enough for an error."""
    text = repr(value) if isinstance(value, (str, int, bytes)) else type(value).__name__
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


# -- what is known of a class, worked out once

_TAGS: dict[type[Any], str | int] = {}
_SCHEMAS: dict[type[Any], _Schema] = {}


class _Schema:
    """How the messages of one class are written and read."""

    def __init__(self, cls: type[Any]) -> None:
        hints = get_type_hints(cls, include_extras=True)
        fields = dataclasses.fields(cls)
        self.tag = _TAGS[cls]
        self.title = self.tag if isinstance(self.tag, str) else cls.__name__
        self.names = tuple(field.name for field in fields)
        self.optional = {f.name for f in fields if f.default is not dataclasses.MISSING}
        self.values = _getter(self.names)
        self.read = _compile(cls, [hints[name] for name in self.names], self._read_each)
        self._cls = cls
        self._readers = tuple(_reader(hints[name]) for name in self.names)

    def read_whole(self, value: Sequence[Any]) -> Any:
        """``read`` for what may have no field more. Raises ``UnknownMessage`` as well."""
        if len(value) > len(self.names) + 1:
            raise UnknownMessage(
                f"{self.title} with {len(value) - 1} fields is of a newer release; upgrade this one"
            )
        return self.read(value)

    def make(self, fields: Mapping[str, Any]) -> Any:
        """The message with these fields. Raises ``MalformedMessage``."""
        values = {}
        for name, read in zip(self.names, self._readers, strict=True):
            if name in fields:
                try:
                    values[name] = read(fields[name])
                except _Wrong as error:
                    raise MalformedMessage(f"{self.title}: {name} {error}") from None
            elif name not in self.optional:
                raise MalformedMessage(f"{self.title}: {name} is missing")
        return self._cls(**values)

    def _read_each(self, value: Sequence[Any]) -> Any:
        return self.make(dict(zip(self.names, value[1:], strict=False)))


def _schema(cls: type[Any]) -> _Schema:
    schema = _SCHEMAS.get(cls)
    if schema is None:
        if cls not in _TAGS:
            raise TypeError(f"{cls.__name__} is no message")
        schema = _SCHEMAS[cls] = _Schema(cls)
    return schema


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _compile(cls: type[Any], hints: Sequence[Any], otherwise: Reader) -> Reader:
    """Reads ``[tag, field, …]`` without a call for each field: there are thousands a second.

    Whatever is not as it should be is left to ``otherwise``, which says what it is.
    """
    names = [f"v{number}" for number in range(len(hints))]
    checks, values = ["True"], []
    scope: dict[str, Any] = {"cls": cls, "otherwise": otherwise, "Wrong": _Wrong}
    for name, hint in zip(names, hints, strict=True):
        check = _CHECKS.get(hint)
        if check:
            checks.append(check.format(name))
        elif hint is not Any:
            scope[f"read_{name}"] = _reader(hint)
        values.append(f"read_{name}({name})" if f"read_{name}" in scope else name)
    source = f"""
def read(value):
    if len(value) == {len(hints) + 1}:
        {"".join(f"{name}, " for name in ["_", *names])} = value
        if {" and ".join(checks)}:
            try:
                return cls({", ".join(values)})
            except Wrong:
                pass
    return otherwise(value)
"""
    exec(source, scope)
    made: Reader = scope["read"]
    return made


# What a value of each of these is, as source.
_CHECKS = {
    int: f"type({{0}}) is int and 0 <= {{0}} <= {INT_MAX}",
    bool: "type({0}) is bool",
    str: "type({0}) is str",
    bytes: "type({0}) is bytes",
}


def _plain(value: Any) -> Any:
    if type(value) in _TAGS:
        return tuple(map(_plain, encode(value)))
    if type(value) is tuple and any(type(item) in _TAGS for item in value):
        return tuple(map(_plain, value))
    return value


# -- a reader for each annotation


def _reader(hint: Any) -> Reader:
    limit = None
    if get_origin(hint) is Annotated:
        hint, limit = get_args(hint)
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: value
    if hint is int:
        return _integer(limit or Range(0, INT_MAX))
    if hint is float:
        return _float
    if hint in (str, bytes, bool):
        return _exactly(hint, limit)
    if origin in (Union, types.UnionType):
        return _union(args)
    if origin is tuple:
        return _sequence(args[0], limit) if args[-1] is ... else _fixed(args)
    if origin is dict:
        return _map(*map(_reader, args))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _member(hint)
    if hint in _TAGS:
        return MessageSet(hint).decode
    raise TypeError(f"no field of a message can be a {hint}")


def _exactly(kind: type[Any], limit: Size | None) -> Reader:
    most = limit.most if limit is not None else INT_MAX

    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise _Wrong(f"is not of type {kind.__name__}")
        if kind is not bool and len(value) > most:
            raise _Wrong(f"is longer than {most}")
        return value

    return read


def _integer(limit: Range) -> Reader:
    least, most = limit.least, limit.most

    def read(value: Any) -> Any:
        if type(value) is not int or not least <= value <= most:
            raise _Wrong(f"is not an integer from {least} to {most}")
        return value

    return read


def _float(value: Any) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and abs(value) <= INT_MAX:
        return float(value)
    raise _Wrong("is not a finite number")


def _sequence(hint: Any, limit: Size | None) -> Reader:
    most, item = limit.most if limit is not None else INT_MAX, _reader(hint)

    def read(value: Any) -> Any:
        if type(value) not in (tuple, list):
            raise _Wrong("is not an array")
        if len(value) > most:
            raise _Wrong(f"has more than {most} elements")
        if hint in (bytes, str, bool) and {hint}.issuperset(map(type, value)):
            return tuple(value)  # all at once: there may be many
        return tuple(map(item, value))

    return read


def _fixed(hints: tuple[Any, ...]) -> Reader:
    readers = tuple(map(_reader, hints))

    def read(value: Any) -> Any:
        if type(value) not in (tuple, list) or len(value) != len(readers):
            raise _Wrong(f"is not an array of {len(readers)}")
        return tuple(map(call, readers, value))

    return read


def _map(key: Reader, item: Reader) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise _Wrong("is not a map")
        return {key(name): item(element) for name, element in value.items()}

    return read


def _member(kind: type[enum.Enum]) -> Reader:
    members = {member.value: member for member in kind}

    def read(value: Any) -> Any:
        found = members.get(value) if type(value) in (str, int) else None
        if found is None and not isinstance(value, kind):
            raise _Wrong(f"is not one of {', '.join(map(repr, members))}")
        return value if found is None else found

    return read


def _union(hints: Sequence[Any]) -> Reader:
    """``X | None``, or several messages: their tags tell which."""
    some = [hint for hint in hints if hint is not types.NoneType]
    read = _reader(some[0]) if len(some) == 1 else MessageSet(*some).decode
    if len(some) == len(hints):
        return read
    return lambda value: None if value is None else read(value)
