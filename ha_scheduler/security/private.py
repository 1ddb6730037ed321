"""Files with secrets: read only where nobody else can read or replace them.

Guarantee: what ``read_private`` returns came from a regular file of this user's or root's, of mode
0600 or less, that no link leads to and that is in directories which nobody else can change. Else
the error names the command that mends it. Since the directories are checked too, the path cannot
lead elsewhere a moment later.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
from pathlib import Path

from ha_scheduler.errors import OperatorError

_BYTES_MAX = 1024 * 1024  # no secret is larger
_OVERFLOW_UID = 65534  # the owner of what is outside, seen from within a namespace of a user


def read_private(path: Path, kind: str, *, owner: int | None = None) -> bytes:
    """The secret in ``path``, such as a ``key``. Raises ``OperatorError``.

    ``owner``: a further user whose file it may be.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise OperatorError(_why(path, kind, error)) from None
    try:
        _check_file(path, kind, os.fstat(descriptor), owner)
        check_directories(path.parent, owner=owner)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_BYTES_MAX)
    finally:
        os.close(descriptor)


def check_private(path: Path, kind: str, *, owner: int | None = None) -> None:
    """Raises as ``read_private``."""
    read_private(path, kind, owner=owner)


def check_directories(directory: Path, *, owner: int | None = None) -> None:
    """Whether nobody else can replace what is in ``directory``. Raises ``OperatorError``."""
    real = Path(os.path.realpath(directory))
    for each in (real, *real.parents):
        found = os.stat(each)
        mode, quoted = stat.S_IMODE(found.st_mode), shlex.quote(str(each))
        if found.st_uid not in _owners(owner):
            raise OperatorError(
                f"The directory {each} belongs to another user (uid {found.st_uid}), who can "
                f"replace what is in it; sudo chown {os.geteuid()} {quoted}, or keep it elsewhere."
            )
        if mode & stat.S_ISVTX:
            continue  # as /tmp: only an owner replaces what is his
        own_group = found.st_gid in (0, os.getegid())  # that of the user alone, mostly
        if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not own_group):
            raise OperatorError(
                f"The directory {each} can be written to by other users (mode {mode:04o}), who "
                f"could replace what is in it; chmod go-w {quoted}"
            )


def _check_file(path: Path, kind: str, found: os.stat_result, owner: int | None) -> None:
    mode, quoted = stat.S_IMODE(found.st_mode), shlex.quote(str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OperatorError(
            f"The {kind} file {path} cannot be read: it is no regular file; name one that is."
        )
    if found.st_uid not in _owners(owner):
        raise OperatorError(
            f"The {kind} file {path} belongs to another user (uid {found.st_uid}), who can read "
            f"it; sudo chown {os.geteuid()} {quoted}"
        )
    if mode & 0o077:
        raise OperatorError(
            f"The {kind} file {path} can be read or written by other users (mode {mode:04o}); "
            f"chmod 600 {quoted}"
        )


def _owners(further: int | None) -> set[int]:
    owners = {0, os.geteuid()} | ({further} if further is not None else set())
    return owners | {_OVERFLOW_UID} if _in_a_users_namespace() else owners


def _in_a_users_namespace() -> bool:
    with contextlib.suppress(OSError):
        return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
    return False


def _why(path: Path, kind: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return (
            f"The {kind} file {path} does not exist; "
            f"copy it there, or create it with `dask-ha-scheduler init`."
        )
    if error.errno == errno.ELOOP:
        quoted = shlex.quote(str(path))
        copied = f'cp --remove-destination "$(readlink -f {quoted})" {quoted}'
        return (
            f"The {kind} file {path} is a symbolic link, behind which another file could take its "
            f"place; {copied} && chmod 600 {quoted}"
        )
    return (
        f"The {kind} file {path} cannot be read: {error.strerror}; "
        f"let the user who runs this command read it."
    )
