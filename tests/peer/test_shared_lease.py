"""What an engine can do with the memory that it shares with its daemon."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ha_scheduler.shared_exposures import SharedExposures
from ha_scheduler.shared_lease import SharedLease, now

#: What code in an engine can try with the descriptor that it was given. Prints what was possible.
ATTEMPTS = r"""
import ctypes, fcntl, mmap, os, struct, sys
from ha_scheduler.shared_lease import SharedLease

fd, ever = int(sys.argv[1]), struct.pack("@d", 1e12)
lease = SharedLease(fd)
libc = ctypes.CDLL(None, use_errno=True)
address = ctypes.c_size_t.from_address(id(lease._page) + object.__basicsize__).value

def writable_map(of):
    mmap.mmap(of, mmap.PAGESIZE)[:8] = ever

def private_map_through_memory_file():
    with open("/proc/self/mem", "r+b", 0) as memory:
        memory.seek(address)
        memory.write(ever)

def mprotect():
    assert libc.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, 3) == 0
    ctypes.memmove(address, ever, 8)

def call(number):
    if number != 0:
        raise OSError(ctypes.get_errno(), "")

tries = {
    "extend": lambda: lease.extend(1e12),
    "map": lambda: writable_map(fd),
    "write": lambda: os.pwrite(fd, ever, 0),
    "reopen": lambda: writable_map(os.open(f"/proc/self/fd/{fd}", os.O_RDWR)),
    "reopen and write": lambda: os.write(os.open(f"/proc/self/fd/{fd}", os.O_RDWR), ever),
    "memory file": private_map_through_memory_file,
    "mprotect": mprotect,
    "punch a hole": lambda: call(libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(4096))),
    "shrink": lambda: os.ftruncate(fd, 0),
    "grow": lambda: os.ftruncate(fd, 2 * mmap.PAGESIZE),
    "seal": lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x8),
    "splice": lambda: os.sendfile(fd, os.open("/proc/self/exe", os.O_RDONLY), 0, 8),
}
for name, attempt in tries.items():
    try:
        attempt()
    except (OSError, TypeError, AssertionError, ValueError):
        continue
    print(name)
"""


def test_an_engine_cannot_extend_its_lease_by_any_way_to_the_page() -> None:
    lease = SharedLease.create()
    try:
        until = now() + 0.05
        lease.extend(until)
        command = [sys.executable, "-c", ATTEMPTS, str(lease.fd)]
        ended = subprocess.run(
            command, pass_fds=[lease.fd], capture_output=True, text=True, timeout=60, check=True
        )
        assert (ended.stdout, ended.stderr) == ("", "")
        while now() < until:
            pass
        assert not lease.valid()
        lease.extend(now() + 60)
        assert SharedLease(lease.fd).valid(), "and the daemon still can, and is seen"
        lease.revoke()
        assert not SharedLease(lease.fd).valid()
    finally:
        lease.close()


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_an_engine_cannot_take_away_a_page_that_its_daemon_reads(size: int) -> None:
    """SIGBUS would end the daemon, and the next one, and the one after that."""
    exposures = SharedExposures.create()
    try:
        code = f"import os, sys; os.ftruncate(int(sys.argv[1]), {size})"
        command = [sys.executable, "-c", code, str(exposures.fd)]
        ended = subprocess.run(
            command, pass_fds=[exposures.fd], capture_output=True, text=True, timeout=60
        )
        assert "PermissionError" in ended.stderr
        assert exposures.clocks() == []
    finally:
        exposures.release()
