"""What a client asks for, in a form that can be sent; or the reason why it cannot.

Guarantee: what ``prepare`` returns is serialised without an error, whenever and however often that
is. So what cannot be sent fails in the call that asks for it, before the journal has it, and harms
nothing else.

Pickles are made once, in the caller's thread. ``prepare`` changes its message and no state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack
from distributed.protocol import dumps
from distributed.protocol.pickle import dumps as pickle
from distributed.protocol.serialize import (
    Pickled,
    Serialize,
    Serialized,
    ToPickle,
    msgpack_encode_default,
)
from distributed.utils import ensure_memoryview

from client_replay.errors import CannotBeSent
from ha_scheduler.protocol.keys import key_fault

_OPAQUE = (Serialize, Serialized, ToPickle, Pickled)


def prepare(message: dict[str, Any]) -> dict[str, Any]:
    """``message``, with what is to be pickled pickled. Raises ``CannotBeSent``."""
    op = message["op"]
    for key in _keys(message):
        if fault := key_fault(key):
            raise CannotBeSent(op, f"the key {fault}")
    try:
        for name, value in message.items():
            if isinstance(value, ToPickle):
                message[name] = _pickled(name, value.data)
        _check(message)
    except CannotBeSent:
        raise
    except Exception as error:
        raise CannotBeSent(op, f"{type(error).__name__}: {error}") from error
    return message


def sendable(keys: Iterable[Any]) -> list[Any]:
    """Those of the keys that can be sent."""
    return [key for key in keys if not key_fault(key)]


def _keys(message: dict[str, Any]) -> Iterable[Any]:
    return [message["key"]] if "key" in message else message.get("keys", ())


def _pickled(name: str, value: Any) -> Pickled:
    frames: list[Any] = []
    try:
        data = pickle(value, buffer_callback=lambda part: frames.append(ensure_memoryview(part)))
    except Exception as error:
        raise CannotBeSent(name, f"{type(error).__name__}: {error}") from error
    return Pickled({"pickled-obj": data}, frames)


def _check(message: dict[str, Any]) -> None:
    """Serialise it for the error alone; its frames are as they are."""
    try:
        msgpack.packb(message, default=_without_frames, use_bin_type=True)
    except TypeError:
        dumps(message)  # by a fallback to pickle


def _without_frames(value: Any) -> Any:
    return None if isinstance(value, _OPAQUE) else msgpack_encode_default(value)
