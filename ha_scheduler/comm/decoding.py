"""How the bytes of a Dask connection become messages.

Guarantee:

- Until distributed's handshake is over, nothing of the other side is unpickled, imported or
  decompressed, and at most ``HANDSHAKE_BYTES_MAX`` of it are held. In either direction.
- A message of a batch that cannot be unpickled here is marked ``UNREADABLE``, and the others of the
  batch are as they were. Upstream's comm fails on the batch, and with it the stream. So is a call
  to a scheduler. Another message alone (an answer) raises as upstream's does.
- Nothing of an observer is unpickled or imported.
- Frames expand to at most ``EXPANDED_BYTES_MAX`` in one message, and are refused before they do.

``tcp.TCP.read`` takes ``from_frames`` from its module, where ``preamble.register`` puts this one.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import msgpack
from distributed.comm.core import CommClosedError
from distributed.comm.utils import OFFLOAD_THRESHOLD
from distributed.protocol import pickle
from distributed.protocol.compression import compressions
from distributed.protocol.serialize import (
    Serialized,
    merge_and_deserialize,
    msgpack_decode_default,
)
from distributed.protocol.utils import msgpack_opts, unpack_frames
from distributed.system import MEMORY_LIMIT
from distributed.utils import nbytes, offload

from ha_scheduler.comm.calling import may_send_pickles

logger = logging.getLogger("distributed.ha.comm")

HANDSHAKE_BYTES_MAX = 64 * 1024  # versions and a compression: some hundred bytes
#: What compressed frames of one message may expand to: at the scheduler, which opens pickles of
#: calls alone, and elsewhere, where it is data that has to fit into memory.
EXPANDED_BYTES_MAX = min(2 << 30, MEMORY_LIMIT // 4)
EXPANDED_DATA_BYTES_MAX = MEMORY_LIMIT // 2  # as upstream's MAX_BUFFER_SIZE

#: In a message of a batch: why it could not be read; an exception.
UNREADABLE = "ha_unreadable"

_LENGTH = struct.Struct("Q")


class ExpandsTooMuch(ValueError):
    """Remote: compressed frames are larger than ``EXPANDED_BYTES_MAX`` when decompressed."""


class NoPickles(PermissionError):
    """Remote: an observer sent what would have to be unpickled, which runs code."""


class _Unreadable:
    """In the place of what could not be unpickled."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


# ---- the handshake


async def read_handshake(comm: Any) -> dict[str, Any]:
    """distributed's handshake, the first message of either side. Raises ``CommClosedError``."""
    stream = comm.stream
    if stream is None:
        raise CommClosedError
    (length,) = _LENGTH.unpack(await stream.read_bytes(_LENGTH.size))
    if length > HANDSHAKE_BYTES_MAX:
        raise _garbled(comm, f"{length} bytes")
    try:
        (frame,) = unpack_frames(await stream.read_bytes(length))
        said = msgpack.loads(frame, use_list=False, **msgpack_opts)
    except (ValueError, TypeError, struct.error) as error:
        raise _garbled(comm, repr(error)) from error
    if type(said) is not dict or not all(type(name) is str for name in said):
        raise _garbled(comm, "no map")
    return said


def _garbled(comm: Any, what: str) -> CommClosedError:
    comm.abort()
    return CommClosedError(f"{comm.peer_address} began with no handshake of Dask ({what})")


# ---- messages


async def from_frames(
    frames: list[Any],
    deserialize: bool = True,
    deserializers: Any = None,
    allow_offload: bool = True,
) -> Any:
    """As ``distributed.comm.utils.from_frames``."""
    pickles = may_send_pickles()
    may_offload = allow_offload and deserialize and OFFLOAD_THRESHOLD
    if may_offload and sum(map(nbytes, frames)) > OFFLOAD_THRESHOLD:
        return await offload(loads, frames, deserialize, deserializers, pickles)
    return loads(frames, deserialize, deserializers, pickles)


def loads(
    frames: list[Any], deserialize: bool = True, deserializers: Any = None, pickles: bool = True
) -> Any:
    """As ``distributed.protocol.core.loads``, which see; a batch loses what cannot be read.

    Without ``pickles`` nothing can be that is more than numbers, text, lists, maps and sets.
    """
    failed: list[_Unreadable] = []
    limit = EXPANDED_DATA_BYTES_MAX if deserialize else EXPANDED_BYTES_MAX

    def load(loader: Callable[[], Any]) -> Any:
        try:
            return loader()
        except MemoryError:
            raise
        except Exception as error:  # a loader may raise anything, and this value alone
            failed.append(_Unreadable(error))
            return failed[-1]

    def serialized(offset: int) -> Any:
        header, sub = _sub_frames(frames, offset, object_hook=msgpack_decode_default)
        if not deserialize:
            return Serialized(header, sub)
        if "compression" in header:
            sub = decompress(header["compression"], sub, limit)
        return merge_and_deserialize(header, sub, deserializers=deserializers)

    def pickled(offset: int) -> Any:
        header, sub = _sub_frames(frames, offset)
        if "compression" in header:
            sub = decompress(header["compression"], sub, limit)
        return pickle.loads(header["pickled-obj"], buffers=sub)

    def decode_default(obj: dict[Any, Any]) -> Any:
        if not pickles and not obj.keys().isdisjoint(_RUNNING):
            return load(_refuse_pickle)
        if (offset := obj.get("__Serialized__", 0)) > 0:
            return load(lambda: serialized(offset))
        if (offset := obj.get("__Pickled__", 0)) > 0:
            return load(lambda: pickled(offset))
        return msgpack_decode_default(obj)

    message = msgpack.loads(frames[0], object_hook=decode_default, use_list=False, **msgpack_opts)
    if not failed:
        return message
    if not isinstance(message, tuple) and (deserialize or "op" not in message):
        raise failed[0].error
    if not isinstance(message, tuple):
        return _marked(message)  # a call to a scheduler, which answers it
    return [_marked(each) for each in message]


#: In a map of a message: its value is made by importing, or by unpickling now or later.
_RUNNING = frozenset({"__Serialized__", "__Pickled__", "__Enum__"})


def _refuse_pickle() -> Any:
    raise NoPickles("an observer sends nothing that is pickled, serialised or imported")


def _sub_frames(frames: list[Any], offset: int, **options: Any) -> tuple[dict[str, Any], list[Any]]:
    """A header and its frames, of which ``offset`` is the place."""
    opts = {"use_list": False, **msgpack_opts} if options else {}
    header = msgpack.loads(frames[offset], **opts, **options)
    return header, frames[offset + 1 : offset + 1 + header["num-sub-frames"]]


def _marked(message: Any) -> Any:
    found = _find(message)
    if found is None or not isinstance(message, dict):
        return message
    return {**message, UNREADABLE: found.error}


def _find(value: Any) -> _Unreadable | None:
    if isinstance(value, _Unreadable):
        return value
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if not isinstance(value, (list, tuple, set)):
        return None
    return next((found for each in value if (found := _find(each)) is not None), None)


# ---- compression


def decompress(names: Iterable[str | None], frames: Iterable[Any], limit: int) -> list[Any]:
    """The frames, decompressed. Raises ``ExpandsTooMuch`` for more than ``limit`` bytes in all."""
    expanded = []
    for name, frame in zip(names, frames, strict=False):
        expanded.append(_expanded(name, frame, limit))
        limit -= nbytes(expanded[-1])
    return expanded


def _expanded(name: str | None, frame: Any, limit: int) -> Any:
    if not name:
        return frame
    if name == "zlib":
        return _inflated(frame, limit)
    size = _DECLARED[name](frame)
    if not 0 <= size <= limit:
        raise ExpandsTooMuch(f"{size} bytes of {name} in a message that may have {limit} more")
    return compressions[name].decompress(frame)


def _inflated(frame: Any, limit: int) -> bytes:
    """zlib declares no size."""
    stream = zlib.decompressobj()
    data = stream.decompress(frame, limit + 1)
    if len(data) > limit:
        raise ExpandsTooMuch(f"more bytes of zlib in a message than the {limit} that it may have")
    if not stream.eof:
        raise ValueError("a frame of zlib that is cut off")
    return data


def _declared_by_lz4(frame: Any) -> int:
    return int.from_bytes(frame[:4], "little")


def _declared_by_snappy(frame: Any) -> int:
    size = 0
    for place, byte in enumerate(bytes(frame[:5])):
        size |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return size
    return -1


def _declared_by_zstd(frame: Any) -> int:
    import zstandard  # type: ignore[import-not-found,unused-ignore]

    return int(zstandard.frame_content_size(frame))  # -1: it declares none


_DECLARED: dict[str, Callable[[Any], int]] = {
    "lz4": _declared_by_lz4,
    "snappy": _declared_by_snappy,
    "zstd": _declared_by_zstd,
}
