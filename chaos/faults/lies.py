"""What an adversary says: the protocol's own vocabulary, with something wrong.

Messages of ours are made from their annotations, upstream's from the signatures of their handlers,
so a new message or request is tried without a word here.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

import msgspec
from msgspec import inspect as of

from ha_scheduler import protocol
from ha_scheduler.protocol.codec import Message, Part

#: What fits nowhere, or only in the wrong place.
WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 2**40, 2**63 - 1, 2**64 - 1, float("nan"), float("inf")),
    *("", "x", "x" * 70_000, "é" * 40_000, "\0", b"", b"\xff" * 10, b"\x80\x04."),
    *((), (1,), ("x", 2**63), [[]] * 50, {}, {"x": 1}, {1: 2}, {"op": "x"}, [{"op": "x"}]),
)


def said() -> Iterator[tuple[str, type[Any]]]:
    """Every message by its tag, and every part of one that has none by its class."""
    for module in pkgutil.iter_modules(protocol.__path__):
        contents = vars(importlib.import_module(f"ha_scheduler.protocol.{module.name}"))
        for name, kind in contents.items():
            here = isinstance(kind, type) and kind.__module__.endswith(f".{module.name}")
            if here and issubclass(kind, msgspec.Struct) and kind not in (Message, Part):
                yield f"{module.name}.{kind.__struct_config__.tag or name}", kind


def messages() -> Iterator[tuple[str, type[Any]]]:
    """Every message of the protocol that has an ``op``."""
    for name, kind in said():
        if isinstance(kind.__struct_config__.tag, str):
            yield name, kind


def honest(kind: Any, rng: Random) -> Any:
    """A value of a type, as it is on the wire."""
    match kind:
        case of.IntType(ge=ge, le=le):
            low, high = ge or 0, 2**63 - 1 if le is None else le
            return rng.choice([low, min(low + 1, high), high])
        case of.FloatType():
            return rng.random()
        case of.BoolType():
            return rng.random() < 0.5
        case of.StrType():
            return rng.choice(["", "a", "evil"])
        case of.BytesType(min_length=least):
            return bytes(least or 0)
        case of.NoneType():
            return None
        case of.EnumType(cls=cls):
            return rng.choice(list(cls)).value
        case of.VarTupleType(item_type=item) | of.ListType(item_type=item):
            return [honest(item, rng) for _ in range(rng.randrange(3))]
        case of.TupleType(item_types=items):
            return [honest(item, rng) for item in items]
        case of.DictType(key_type=key, value_type=value):
            name = honest(key, rng)
            return {name if name.__hash__ else "x": honest(value, rng)}
        case of.UnionType(types=kinds):
            return honest(rng.choice(kinds), rng)
        case of.StructType(fields=fields, tag=tag, array_like=True):
            listed = [honest(field.type, rng) for field in fields]
            return listed if tag is None else [tag, *listed]
        case of.StructType(fields=fields, tag=tag):
            named = {field.encode_name: honest(field.type, rng) for field in fields}
            return named if tag is None else {"op": tag, **named}
        case of.Metadata(type=inner):
            return honest(inner, rng)
        case _:
            return rng.choice(WRONG)


def one_wrong(message: dict[str, Any], rng: Random) -> dict[str, Any]:
    """The message with one field wrong, missing, or one that it does not have."""
    fields = [name for name in message if name != "op"] or ["surplus"]
    name = rng.choice([*fields, "surplus", "client", "worker"])
    if rng.random() < 0.2:
        return {other: value for other, value in message.items() if other != name}
    return {**message, name: rng.choice(WRONG)}


def of_ours(rng: Random) -> dict[str, Any]:
    """A message of this protocol, for whatever side and state."""
    _, kind = rng.choice(list(messages()))
    return dict(honest(of.type_info(kind), rng))


def of_upstream(handlers: Mapping[str, Callable[..., Any]], rng: Random) -> dict[str, Any]:
    """A request or message by the signature of its handler."""
    op = rng.choice(sorted(handlers))
    names = [
        name
        for name, parameter in inspect.signature(handlers[op]).parameters.items()
        if name not in ("self", "comm", "stream") and parameter.kind != parameter.VAR_KEYWORD
    ]
    return {"op": op, **{name: rng.choice(WRONG) for name in names if rng.random() < 0.9}}


def packs(value: Any) -> bool:
    """Whether it can be sent at all."""
    try:
        msgspec.msgpack.encode(value)
    except (ValueError, OverflowError, TypeError):
        return False
    return True
