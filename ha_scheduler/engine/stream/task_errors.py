"""A task's error, in the event stream and in a worker's report.

Guarantee: a kept error has at most ``ERROR_BYTES_MAX``. A larger one (an exception that carries an
array) is replaced by its text.
"""

from __future__ import annotations

from typing import Any

from distributed.core import error_message
from distributed.protocol import dumps as to_frames
from distributed.protocol import loads as from_frames
from distributed.protocol.pickle import dumps, loads

from ha_scheduler.protocol.worker import ERROR_BYTES_MAX

TEXT_CHARACTERS_MAX = 10_000

_FIELDS = ("exception", "traceback", "exception_text", "traceback_text")
_KNOWN = frozenset((*_FIELDS, "erred_on"))


class ErrorTooLarge(RuntimeError):
    """The task failed with an exception too large to keep; only its text survived a failover."""


def erred_fields(error: Exception) -> dict[str, Any]:
    """The error of a task as its worker would report it, if it had come to one."""
    told: dict[str, Any] = {**error_message(error)}
    frames = to_frames({name: told[name] for name in _FIELDS})
    return dict(from_frames(frames, deserialize=False))


def encode_error(ts: Any) -> bytes:
    error = {name: getattr(ts, name) for name in _FIELDS}
    return _bounded({**error, "erred_on": sorted(ts.erred_on or ())})


def decode_error(payload: bytes) -> dict[str, Any]:
    """The error, without what a worker of a newer release says besides."""
    return {name: value for name, value in loads(payload).items() if name in _KNOWN}


def _bounded(error: dict[str, Any]) -> bytes:
    payload = bytes(dumps(error))
    if len(payload) <= ERROR_BYTES_MAX:
        return payload
    text = str(error["exception_text"])[:TEXT_CHARACTERS_MAX]
    texts = {
        "exception_text": text,
        "traceback_text": str(error["traceback_text"])[:TEXT_CHARACTERS_MAX],
    }
    small = {**error, "exception": dumps(ErrorTooLarge(text)), "traceback": None, **texts}
    return bytes(dumps(small))
