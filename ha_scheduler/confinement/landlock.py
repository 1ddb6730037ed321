"""Landlock: what a process and all that it starts may do, given up for ever and without privilege.

Guarantee: after ``restrict`` no process outside can be traced, looked into (its memory, files,
environment or root directory under ``/proc``) or, from ABI 6 (Linux 6.12), signalled; nothing can
be mounted; what lies beneath ``hidden`` can be neither opened nor changed; and neither can what
makes root out of a process of root without capabilities: disks, settings of the kernel, and the
programs and configuration of the system, which can be read.

Trap: Landlock allows by hierarchy and forbids nothing, so to hide a directory is to allow all that
lies beside it and beside its parents. What is made there later stays closed as well, and in the
parents nothing can be made. ``mounts.py`` has no such side effect; then ``hidden`` is empty here.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Collection, Iterator

from ha_scheduler.confinement.kernel import syscall

SIGNALS_ABI = 6  # from this one signals are scoped

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # ABI → how many rights of the file system it has
_OF_FILES = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # execute, write, read, truncate, ioctl
_EXECUTE, _READ_FILE, _READ_DIRECTORY = 1 << 0, 1 << 2, 1 << 3
_READ = _EXECUTE | _READ_FILE | _READ_DIRECTORY
_ABSTRACT_SOCKETS, _SIGNALS = 1 << 0, 1 << 1

#: What can be read and not changed.
_SYSTEM = frozenset({"proc", "sys", "etc", "usr", "bin", "sbin", "boot", "lib", "lib32", "lib64"})
#: What there is of devices: those that every program may expect, terminals, and accelerators.
_DEVICES = frozenset(
    {
        *("null", "zero", "full", "random", "urandom", "shm", "mqueue", "tty", "ptmx", "pts"),
        *("dri", "kfd", "infiniband"),
    }
)
_ACCELERATORS = "nvidia"  # nvidia0, nvidiactl, …


def abi() -> int:
    """The version that the kernel has; 0: none, or it is switched off."""
    try:
        return syscall("landlock_create_ruleset", _CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict(version: int, hidden: Collection[str] = (), shown: Collection[str] = ()) -> None:
    """Restrict this process. ``shown``: files beneath ``hidden`` that may be read all the same.

    ``version``: that of ``abi``, at least 1. It must have given up new privileges before. Raises
    ``OSError``.
    """
    rights = (1 << _RIGHTS[min(version, max(_RIGHTS))]) - 1
    scoped = _ABSTRACT_SOCKETS | _SIGNALS if version >= SIGNALS_ABI else 0
    fields = (rights, 0, scoped)[: 1 if version < 4 else 2 if version < SIGNALS_ABI else 3]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    size = len(attributes)
    ruleset = syscall("landlock_create_ruleset", _CREATE_RULESET, attributes, size, 0)
    try:
        _allow(ruleset, "/", _READ_DIRECTORY)  # the names of files are no secret
        for path in _beside({*hidden, "/dev"}):
            _allow(ruleset, path, rights & _READ if path.split("/")[1] in _SYSTEM else rights)
        for path in shown:
            _allow(ruleset, path, _READ_FILE)
        for path in ("/proc/self", *_devices()):
            _allow(ruleset, path, rights)
        syscall("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _beside(hidden: set[str], directory: str = "/") -> Iterator[str]:
    """What lies beside ``hidden`` and beside all their parents."""
    for entry in os.scandir(directory):
        if entry.path in hidden or entry.is_symlink():
            continue
        if any(path.startswith(entry.path + "/") for path in hidden):
            yield from _beside(hidden, entry.path)
        else:
            yield entry.path


def _devices() -> Iterator[str]:
    for entry in os.scandir("/dev"):
        if entry.name in _DEVICES or entry.name.startswith(_ACCELERATORS):
            yield entry.path


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it is gone, or nothing of ours
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, opened)
        syscall("landlock_add_rule", _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(opened)
