"""What an engine is about to read or run of a client, in memory shared with its daemon.

Guarantee: what ``open`` has written is there for the daemon however the engine ends, in the next
instruction or later, and ``close`` takes it away. Shared memory and not a message: a segmentation
fault flushes no buffer, and a graph of one task may cost no system call.

Order: a slot's bytes are written before the clock that makes it count. The daemon reads exposures
after the engine's end; before that only clocks, each an atomic store.

The engine runs users' code, so a reader believes nothing here: what is no exposure is left out, and
the kernel lets nobody change the size: a page that is gone would end the daemon that reads it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
from typing import Final

import msgspec

from ha_scheduler.protocol.engine import Exposure

SLOT_BYTES = 2048  # an ``Exposure`` at the longest
SLOTS = 15  # open at once: one for each thread, and what runs within another
PATIENCE_S_MAX = 24 * 3600.0  # that an engine may ask for

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW

_BYTES: Final = (SLOTS + 1) * SLOT_BYTES
_CLOCKS = struct.Struct("@dd")  # the last progress (0.0: the slot is free), patience
_LENGTH = struct.Struct("@I")
_BODY = _CLOCKS.size + _LENGTH.size
_OWN_SIGNAL = struct.Struct("@I")  # in the first slot's place: it has sent itself this signal

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Exposure)


class SharedExposures:
    """The slots. The daemon creates them, the engine opens them by file descriptor."""

    def __init__(self, fd: int) -> None:
        """``fd``: -1 for slots that nobody shares."""
        self.fd = fd
        self._pages = mmap.mmap(fd, _BYTES)
        self._free = list(range(_BYTES - SLOT_BYTES, 0, -SLOT_BYTES))
        self._lock = threading.Lock()

    @classmethod
    def create(cls) -> SharedExposures:
        """New, empty slots; their ``fd`` is inheritable by ``pass_fds``."""
        fd = os.memfd_create("dask-ha-exposures", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return cls(fd)

    # -- the engine's side

    def open(self, exposure: Exposure, patience_s: float = 0.0) -> int:
        """Write the exposure; returns its slot, or 0 when all are taken.

        ``patience_s``: how much longer than others it may take between two signs of progress.
        """
        with self._lock:
            slot = self._free.pop() if self._free else 0
        if slot:
            body = _ENCODER.encode(exposure)[: SLOT_BYTES - _BODY]
            _LENGTH.pack_into(self._pages, slot + _CLOCKS.size, len(body))
            start = slot + _BODY
            self._pages[start : start + len(body)] = body
            _CLOCKS.pack_into(self._pages, slot, time.monotonic(), patience_s)
        return slot

    def progress(self, slot: int, patience_s: float = 0.0) -> None:
        """It goes on: the watchdog counts from now."""
        if slot:
            _CLOCKS.pack_into(self._pages, slot, time.monotonic(), patience_s)

    def close(self, slot: int) -> None:
        """It is over, well or with an error."""
        if slot:
            _CLOCKS.pack_into(self._pages, slot, 0.0, 0.0)
            with self._lock:
                self._free.append(slot)

    def signals_itself(self, number: int) -> None:
        """The engine is about to send itself a signal."""
        _OWN_SIGNAL.pack_into(self._pages, 0, number)

    # -- the daemon's side

    def read(self) -> tuple[Exposure, ...]:
        """What is open, the outermost first. Of an engine that has ended."""
        found: list[tuple[float, Exposure]] = []
        for slot in range(SLOT_BYTES, _BYTES, SLOT_BYTES):
            at, _ = _CLOCKS.unpack_from(self._pages, slot)
            if at:
                (length,) = _LENGTH.unpack_from(self._pages, slot + _CLOCKS.size)
                start = slot + _BODY
                body = self._pages[start : start + min(length, SLOT_BYTES - _BODY)]
                try:
                    found.append((at, _DECODER.decode(body)))
                except (ValueError, OverflowError, RecursionError):
                    continue
        return tuple(exposure for _, exposure in sorted(found, key=lambda pair: pair[0]))

    def clocks(self) -> list[tuple[int, float, float]]:
        """Of each open exposure: slot, last progress (CLOCK_MONOTONIC), patience in seconds."""
        found = []
        for slot in range(SLOT_BYTES, _BYTES, SLOT_BYTES):
            at, patience_s = _CLOCKS.unpack_from(self._pages, slot)
            if at:
                found.append((slot, at, min(max(patience_s, 0.0), PATIENCE_S_MAX)))
        return found

    def own_signal(self) -> int:
        """The signal that the engine has sent itself; 0 for none."""
        return int(_OWN_SIGNAL.unpack_from(self._pages, 0)[0])

    def release(self) -> None:
        """Unmap, and close the descriptor."""
        self._pages.close()
        if self.fd >= 0:
            os.close(self.fd)
