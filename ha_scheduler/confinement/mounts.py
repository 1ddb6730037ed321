"""Change what this process, and all that it starts, sees of the file system, and nobody else.

Guarantee: after ``hide`` an empty directory that nobody can write to is in the place of each hidden
directory, with copies of the files that are to be shown, and an empty file that cannot be opened in
the place of each hidden file or socket; nobody can write to what is fixed. All else is as it was,
also what is made later. It holds while the
process has no capability to unmount, and cannot enter the root of another one
(``landlock.py``).

Trap: who replaces a hidden *file* by another one, as ``mv`` does, uncovers it for processes that
run already. In a hidden directory nothing is ever uncovered.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path

from ha_scheduler.confinement.kernel import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_BIND,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SLAVE,
    mount,
    unshare,
)

_TMPFS = "mode=0755,size=4m,nr_inodes=256"
_FLAGS = MS_NOSUID | MS_NODEV | MS_NOEXEC
_NOTHING = ".hidden"  # what lies in the place of hidden files


class Namespace(StrEnum):
    """How a process gets a view of the file system of its own."""

    ROOT = "root"  # as root
    USER = "user"  # as any user, where the kernel lets users have namespaces
    NONE = "none"


def available(*kinds: Namespace) -> Namespace:
    """The first of ``kinds`` that this kernel lets us have. Forks: call it before any thread."""
    return next((kind for kind in kinds if _works(kind)), Namespace.NONE)


def hide(
    kind: Namespace,
    hidden: Collection[str],
    shown: Collection[str],
    fixed: Collection[str],
    owner: tuple[int, int],
) -> None:
    """Enter a namespace, hide and fix. ``owner``: uid and gid of the copies. Raises ``OSError``.

    The first of ``hidden`` is a directory; no path has a symbolic link, and what does not exist is
    passed over.
    """
    copies = {path: Path(path).read_bytes() for path in shown}
    _enter(kind)
    first, *_ = hidden
    for path in hidden:
        if os.path.isdir(path):
            mount("tmpfs", path, "tmpfs", _FLAGS, _TMPFS)
    nothing = os.path.join(first, _NOTHING)
    os.close(os.open(nothing, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o000))
    for path, data in copies.items():
        _copy(Path(path), data, owner)
    for path in hidden:
        if os.path.isdir(path):
            mount("none", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | _FLAGS)
        elif os.path.exists(path):
            mount(nothing, path, "", MS_BIND)
    for path in fixed:
        mount(path, path, "", MS_BIND | MS_REC)
        mount("none", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | _flags_of(path))
    _leave_what_is_hidden()


def _flags_of(path: str) -> int:
    """The flags of a mount, which a user's namespace may not take away."""
    found = os.statvfs(path).f_flag
    pairs = ((os.ST_NOSUID, MS_NOSUID), (os.ST_NODEV, MS_NODEV), (os.ST_NOEXEC, MS_NOEXEC))
    times = ((os.ST_NOATIME, MS_NOATIME), (os.ST_NODIRATIME, MS_NODIRATIME))
    further = ((os.ST_RELATIME, MS_RELATIME),)
    return sum(flag for bit, flag in (*pairs, *times, *further) if found & bit)


def _copy(path: Path, data: bytes, owner: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o400)
    os.chown(path, *owner)


def _leave_what_is_hidden() -> None:
    """The working directory is still what was there before; its path may lead elsewhere now."""
    try:
        os.chdir(os.getcwd())
    except OSError:
        os.chdir("/")


def _enter(kind: Namespace) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if kind is Namespace.USER:
        unshare(CLONE_NEWUSER | CLONE_NEWNS)
        # The same user as before. What it is allowed as a member of further groups stays.
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            Path(f"/proc/self/{name}").write_text(text)
    else:
        unshare(CLONE_NEWNS)
    # What is mounted later on this host is seen here too, and never the other way round.
    mount("none", "/", "", MS_REC | MS_SLAVE)


def _works(kind: Namespace) -> bool:
    child = os.fork()
    if not child:
        status = 1
        try:
            _enter(kind)
            mount("tmpfs", "/", "tmpfs", _FLAGS, _TMPFS)  # in no view but the child's
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
