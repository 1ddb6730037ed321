"""Where a journal's file is, and whether one can be there.

Guarantee: a file that others of the machine could read is not made (0600), and none on a file
system of the network: LMDB relies on shared memory and locks that hold on one machine alone, and
institutions' home directories are often no such place.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from client_replay.errors import JournalUnusable

SUFFIX = ".journal"
DIRECTORY_MODE = 0o700

#: By the names that mount tables have for them.
NETWORK = frozenset(
    {
        *("nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afs", "afpfs", "webdav"),
        *("lustre", "gpfs", "beegfs", "ceph", "cephfs", "glusterfs", "pvfs2", "orangefs", "panfs"),
        *("wekafs", "daos", "ocfs2", "gfs2", "9p", "vboxsf", "prl_fs", "davfs", "sshfs", "s3fs"),
    }
)
_FUSE = "fuse."  # and what it stands for, as in fuse.sshfs
LOCAL = ("/var/tmp", "/tmp")  # nosec B108


def path_of(place: str | os.PathLike[str], client: str) -> Path:
    """The file for a client: ``place`` itself, or one in it if it is a directory."""
    path = Path(place).expanduser().absolute()
    return path / f"{client}{SUFFIX}" if path.is_dir() else path


def in_directory(directory: str | os.PathLike[str], client: str) -> Path:
    """The file for a client in a directory of journals, which is made."""
    path = Path(directory).expanduser().absolute()
    _make(path)
    return path / f"{client}{SUFFIX}"


def check(path: Path) -> None:
    """Raise ``JournalUnusable`` if no journal can be at ``path``; makes its directory."""
    _make(path.parent)
    kind = filesystem_of(path.parent)
    if is_of_network(kind):
        raise JournalUnusable(
            path,
            f"it is on a file system of the network ({kind}), where several machines may write and "
            f"locks and shared memory do not hold",
            f"Name a path on a disk of this machine, such as {_example()}; the journal is needed "
            f"only where the notebook runs",
        )


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise JournalUnusable(
            directory, str(error), "Name a directory in which you may write"
        ) from error


def is_of_network(kind: str) -> bool:
    return kind.lower().removeprefix(_FUSE) in NETWORK


def filesystem_of(directory: Path) -> str:
    """The kind of file system, as mount tables name it; empty if unknown."""
    real = os.path.realpath(directory)
    mounts = psutil.disk_partitions(all=True)
    at = [m for m in mounts if _is_in(real, m.mountpoint)]
    return max(at, key=lambda mount: len(mount.mountpoint)).fstype if at else ""


def _is_in(path: str, mountpoint: str) -> bool:
    return path == mountpoint or path.startswith(os.path.join(mountpoint, ""))


def _example() -> str:
    user = os.environ.get("USER") or os.environ.get("USERNAME") or "me"
    there = next((d for d in LOCAL if os.path.isdir(d)), os.path.abspath(os.sep))
    return str(Path(there, f"{user}{SUFFIX}"))
