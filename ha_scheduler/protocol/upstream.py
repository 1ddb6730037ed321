"""What distributed itself says first on a connection, for a process that only turns callers away.

Guarantee: nothing of the caller is unpickled, and no more of it is read than ``REQUEST_BYTES_MAX``.
An unmodified client, worker or tool shows the reason as its error.

A message is a length, a count of frames with their lengths, and the frames, the first of which is
msgpack (distributed's comm/tcp.py:245, protocol/utils.py:74). Numbers are little-endian, of 64
bits.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

REQUEST_BYTES_MAX = 1024 * 1024  # a registration is some kilobytes

_NUMBER = struct.Struct("<Q")
_PICKLE_PROTOCOL = 5


class NoRequest(ValueError):
    """Remote: what came is no message of distributed's."""


def handshake() -> bytes:
    """Ours, which both sides send at once (comm/core.py:142)."""
    return pack(
        {
            "compression": None,
            "python": sys.version_info[:3],
            "pickle-protocol": _PICKLE_PROTOCOL,
        }
    )


def refusal_of(op: str, reason: str) -> bytes:
    """The answer to a request, of which the caller makes an error of its own with ``reason``."""
    if op == "register-client":  # client.py:1589
        return pack([{"op": "stream-start", "error": reason}])
    if op == "register-worker":  # worker.py:1133
        return pack({"status": "error", "message": reason, "time": 0})
    error = {"status": "uncaught-error", "exception": reason, "traceback": None}  # core.py:1662
    return pack({**error, "exception_text": reason, "traceback_text": ""})


def pack(message: Any) -> bytes:
    """A message of one frame."""
    frame = msgspec.msgpack.encode(message)
    body = _NUMBER.pack(1) + _NUMBER.pack(len(frame)) + frame
    return _NUMBER.pack(len(body)) + body


async def read(exactly: Callable[[int], Awaitable[bytes]]) -> bytes:
    """The first frame of the next message. Raises ``NoRequest`` and what ``exactly`` does."""
    (length,) = _NUMBER.unpack(await exactly(_NUMBER.size))
    if length > REQUEST_BYTES_MAX:
        raise NoRequest(f"{length} bytes")
    body = await exactly(length)
    try:
        (count,) = _NUMBER.unpack_from(body)
        (size,) = _NUMBER.unpack_from(body, _NUMBER.size)
    except struct.error as error:
        raise NoRequest(str(error)) from error
    start = (1 + count) * _NUMBER.size
    return body[start : start + size]


def op_of(frame: bytes) -> str:
    """What is asked for; empty if it cannot be read."""
    try:
        request = msgspec.msgpack.decode(frame)
    except (msgspec.DecodeError, ValueError, UnicodeDecodeError):
        return ""
    op = request.get("op") if isinstance(request, dict) else None
    return op if isinstance(op, str) else ""
