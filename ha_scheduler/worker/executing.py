"""What a worker executes, where the worker that its Nanny starts after its death finds it.

Guarantee: a run stands in the file from before its code begins until it has ended, whatever ends
the process: the pages are the kernel's. A worker that closes leaves none.

The file belongs to the Nanny, which never reads it, and is named in the environment of the process
that it starts. Order within a slot: the entry, then its length, by which it exists.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack

logger = logging.getLogger("distributed.worker.ha")

ENVIRONMENT = "DASK_HA_EXECUTING"  # the file's path
SLOTS = 64  # runs; those beyond are not told
SLOT_BYTES = 1024  # likewise of runs whose key does not fit

_LENGTH = struct.Struct("<I")
_SIZE = SLOTS * SLOT_BYTES

Run = tuple[Any, int]  # a task's key, and the id of the run


def make_file(directory: str | None) -> Path:
    """A file for the workers of one Nanny. Raises ``OSError``."""
    descriptor, name = tempfile.mkstemp(prefix="executing-", dir=directory)
    try:
        os.truncate(descriptor, _SIZE)
    finally:
        os.close(descriptor)
    return Path(name)


class Executing:
    """The runs of this process, in ``pages`` of ``SLOTS * SLOT_BYTES``."""

    def __init__(self, pages: Any) -> None:
        self.before = tuple(_runs(pages))  # those under which the former process ended
        self._pages = pages
        self._free = list(range(0, _SIZE, SLOT_BYTES))
        self.clear()

    @contextmanager
    def run(self, key: Any, run: int) -> Iterator[None]:
        """Its code may end this process meanwhile."""
        entry = msgpack.packb((key, run))
        if not self._free or len(entry) > SLOT_BYTES - _LENGTH.size:
            yield
            return
        at = self._free.pop()
        begin = at + _LENGTH.size
        self._pages[begin : begin + len(entry)] = entry
        _LENGTH.pack_into(self._pages, at, len(entry))
        try:
            yield
        finally:
            _LENGTH.pack_into(self._pages, at, 0)
            self._free.append(at)

    def clear(self) -> None:
        """This process ends on purpose, whatever it executes."""
        for at in range(0, _SIZE, SLOT_BYTES):
            _LENGTH.pack_into(self._pages, at, 0)


def executing_here() -> Executing:
    """That of the one worker for which this process was started; others tell nobody."""
    path = os.environ.pop(ENVIRONMENT, "")  # or a worker in a task's own process would have it
    if path:
        try:
            with open(path, "r+b") as file:
                return Executing(mmap.mmap(file.fileno(), _SIZE))
        except (OSError, ValueError) as error:
            logger.warning(
                "If this process dies, nobody will know what it ran: %s",
                error,
                extra={"action": "exposures_missing"},
            )
    return Executing(bytearray(_SIZE))


def _runs(pages: Any) -> Iterator[Run]:
    for at in range(0, _SIZE, SLOT_BYTES):
        (length,) = _LENGTH.unpack_from(pages, at)
        begin = at + _LENGTH.size
        if 0 < length <= SLOT_BYTES - _LENGTH.size:
            key, run = msgpack.unpackb(pages[begin : begin + length], use_list=False)
            yield key, run
