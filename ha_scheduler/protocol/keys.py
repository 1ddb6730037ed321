"""Which keys and names can be sent and kept.

A Dask key is a string, bytes, a number or a tuple of these. It is in messages, in records of the
ledger and in the names of its rows, so it has a size that all of them can hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgpack

from ha_scheduler.protocol.codec import shown

#: As msgpack. A record of the ledger holds some of them; keys in practice have a hundred bytes.
KEY_BYTES_MAX = 64 * 1024

#: The arguments of requests, upstream's included, that are a key or name; and those that are some.
_ONE = ("key", "name", "topic", "id", "lease_id")
_SOME = ("keys", "names", "locks", "who_has", "nbytes")

_packer = msgpack.Packer(use_bin_type=True, autoreset=True)


def key_fault(key: Any) -> str | None:
    """What is wrong with a key, in words that follow "the key"; None: it can be sent and kept."""
    if type(key) is str and key.isascii():  # nearly all are
        size = len(key)
    else:
        try:
            size = len(_packer.pack(key))
        except (ValueError, OverflowError, TypeError, RecursionError) as error:
            return f"{shown(key)} cannot be sent ({error})"
    if size > KEY_BYTES_MAX:
        return f"{shown(key)} has {size} bytes, and may have {KEY_BYTES_MAX}"
    return None


def check_keys(keys: Iterable[Any]) -> None:
    """Raise ``ValueError``, which any caller can unpickle, for a key that has a fault."""
    for key in keys:
        if fault := key_fault(key):
            raise ValueError(f"the key {fault}")


def check_names(arguments: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if a key or name among the arguments of a request has a fault."""
    for name in _ONE:
        if name in arguments:
            _check_likely((arguments[name],))
    for name in _SOME:
        some = arguments.get(name)
        if isinstance(some, (tuple, list, set, dict)):
            _check_likely(some)


def _check_likely(keys: Iterable[Any]) -> None:
    """A handler of a library may mean something else by such an argument."""
    check_keys(key for key in keys if isinstance(key, (str, bytes, int, float, tuple)))
