"""Calls of Linux that Python's library does not have. All raise ``OSError``."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_NOATIME, MS_NODIRATIME, MS_RELATIME = 0x400, 0x800, 0x200000
MS_REMOUNT, MS_BIND, MS_REC, MS_SLAVE = 0x20, 0x1000, 0x4000, 0x80000

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64  # more than there are

_libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """``result``, or what went wrong."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(what: str, number: int, *arguments: object) -> int:
    return checked(_libc.syscall(number, *arguments), what)


def prctl(what: str, option: int, *arguments: object) -> None:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    checked(_libc.prctl(option, *padded), what)


def set_dumpable(dumpable: bool) -> None:
    """Whether processes of the same user may look into this one: memory, files, environment."""
    prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, int(dumpable))


def refuse_new_privileges() -> None:
    """No program that is started from here gains a privilege, as by a setuid bit."""
    prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def bound_capabilities() -> None:
    """Whatever is started from here has none, where this process may say so."""
    for capability in range(_CAPABILITIES):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # the last one was dropped, or it has no right to: then it has none to give


def drop_capabilities() -> None:
    """All of them, now and for ever."""
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    checked(_libc.capset(header, none), "capset")


def unshare(flags: int) -> None:
    """Enter new namespaces."""
    checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = (source.encode(), os.fsencode(target), kind.encode(), flags, options.encode())
    number = ctypes.c_ulong(flags)
    checked(_libc.mount(*arguments[:3], number, arguments[4]), f"mount on {target}")
