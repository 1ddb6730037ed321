"""The leader's lease, in one page of memory shared by a daemon and its engine.

Guarantee: ``SharedLease.valid()`` is true only while no other peer can have been elected. The
daemon extends the lease to a moment before the earliest possible election of another; the engine
checks it before each write. Shared memory and not a message: an engine that was busy for seconds,
or frozen, must see the truth before it has read its channel.

The engine cannot write the page, whatever the code of users in it tries: once the daemon has mapped
it, the kernel lets nobody map it for writing again, write to the file or change its size.

Times are CLOCK_BOOTTIME seconds, which all processes of a host share: it goes on while a machine is
suspended, where CLOCK_MONOTONIC stands still, so a leader that was suspended finds its lease over.
Where a hypervisor stops both, nothing in the machine can tell: ``docs/architecture.md`` says what
holds then.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time

_DEADLINE = struct.Struct("@d")  # aligned 8 bytes: an atomic store

_F_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h; Linux 5.1
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE


def now() -> float:
    """CLOCK_BOOTTIME, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SharedLease:
    """One deadline. The daemon creates it; the engine opens it by file descriptor, to read."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._page = mmap.mmap(fd, mmap.PAGESIZE, prot=mmap.PROT_READ)

    @classmethod
    def create(cls) -> SharedLease:
        """A new, expired lease that can be extended; its ``fd`` is inheritable by ``pass_fds``."""
        fd = os.memfd_create("dask-ha-lease", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, mmap.PAGESIZE)
        page = mmap.mmap(fd, mmap.PAGESIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)  # after our own mapping, and for ever
        lease = cls(fd)
        lease._page.close()
        lease._page = page
        return lease

    def extend(self, until: float) -> None:
        """Set the end of the lease (CLOCK_BOOTTIME seconds). Raises ``TypeError`` in an engine."""
        _DEADLINE.pack_into(self._page, 0, until)

    def revoke(self) -> None:
        self.extend(0.0)

    def valid(self) -> bool:
        """Whether the lease holds at this moment."""
        deadline: float = _DEADLINE.unpack_from(self._page, 0)[0]
        return now() < deadline

    def close(self) -> None:
        self._page.close()
        os.close(self.fd)
