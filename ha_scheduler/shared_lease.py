"""The leader's lease, in one page of memory shared by a daemon and its engine.

Guarantee: ``SharedLease.valid()`` is true only while no other peer can have been elected. The
daemon extends the lease to a moment before the earliest possible election of another; the engine
checks it before each write. Shared memory and not a message: an engine that was busy for seconds,
or frozen, must see the truth before it has read its channel.

Times are CLOCK_MONOTONIC seconds, which all processes of a host share.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

_DEADLINE = struct.Struct("@d")  # aligned 8 bytes: an atomic store


class SharedLease:
    """One deadline. The daemon creates it, the engine opens it by file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._page = mmap.mmap(fd, mmap.PAGESIZE)

    @classmethod
    def create(cls) -> SharedLease:
        """A new, expired lease; its ``fd`` is inheritable by ``pass_fds``."""
        fd = os.memfd_create("dask-ha-lease")
        os.ftruncate(fd, mmap.PAGESIZE)
        return cls(fd)

    def extend(self, until: float) -> None:
        """Set the end of the lease (CLOCK_MONOTONIC seconds)."""
        _DEADLINE.pack_into(self._page, 0, until)

    def revoke(self) -> None:
        self.extend(0.0)

    def valid(self) -> bool:
        """Whether the lease holds at this moment."""
        deadline: float = _DEADLINE.unpack_from(self._page, 0)[0]
        return time.monotonic() < deadline

    def close(self) -> None:
        self._page.close()
        os.close(self.fd)
