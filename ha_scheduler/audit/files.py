"""The files of an audit log in a peer's data directory.

::

    audit/audit.jsonl               the lines of today, and
    audit/audit-000000012345.jsonl  earlier ones, by the number of their first line
    audit/head                      number and hash of the last line that is known to be on the disk

Guarantee: only the owner reads them (0600). The head never says more than is on the disk: it is
replaced after the lines before it were synced. At most ``FILES_MAX`` files of about
``FILE_BYTES_MAX`` are kept; the chain goes on from file to file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ha_scheduler.audit.chain import Head, Problem, follow

DIRECTORY = "audit"
CURRENT = "audit.jsonl"
HEAD_FILE = "head"
FILE_BYTES_MAX = 8 * 1024 * 1024
FILES_MAX = 16  # 128 MiB
_MODE = 0o600


def directory_of(data_dir: Path) -> Path:
    return data_dir / DIRECTORY


def archived(number: int) -> str:
    return f"audit-{number:012d}.jsonl"


def paths(directory: Path) -> list[Path]:
    """All files, the oldest first."""
    current = directory / CURRENT
    earlier = sorted(directory.glob("audit-*.jsonl"))
    return [*earlier, current] if current.exists() else earlier


def open_append(path: Path) -> int:
    """The descriptor of a file that is ours alone. Raises ``OSError``, for a link too."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, _MODE)


def read_head(directory: Path) -> Head | None:
    """None: there is none, or it cannot be read."""
    try:
        number, _, digest = (directory / HEAD_FILE).read_text().strip().partition(":")
        return Head(int(number), digest)
    except (OSError, ValueError):
        return None


def write_head(directory: Path, head: Head) -> None:
    """Raises ``OSError``."""
    temporary = directory / f".{HEAD_FILE}"
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE
    )
    try:
        os.write(descriptor, f"{head}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, directory / HEAD_FILE)


def lines_of(path: Path) -> Iterator[bytes]:
    """Whole lines, without their ends. Raises ``OSError``."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]


def torn_tail(path: Path) -> int:
    """Bytes after the last whole line."""
    size = path.stat().st_size
    with path.open("rb") as file:
        back = min(size, 1 << 20)
        file.seek(size - back)
        data = file.read()
    end = data.rfind(b"\n")
    return len(data) - end - 1


def verify(directory: Path, noted: Head | None = None) -> tuple[int, Head, list[Problem]]:
    """Lines, the last one, and what is wrong. ``noted``: a head that was noted elsewhere.

    Raises ``OSError``.
    """
    files, problems, count = paths(directory), list[Problem](), 0
    head: Head | None = None
    known = {each.n: each.hash for each in (read_head(directory), noted) if each is not None}
    if files and len(files) < FILES_MAX and files[0].name not in (CURRENT, archived(1)):
        problems.append(Problem(1, "is missing: the first files were removed"))
    for path in files:
        first = head is None and path.name in (CURRENT, archived(1))
        for head, problem in follow(lines_of(path), Head() if first else head):  # noqa: B020
            count += 1
            if problem is not None:
                problems.append(problem)
            if known.get(head.n, head.hash) != head.hash:
                problems.append(Problem(head.n, "is another line than the one that was noted"))
        if torn := torn_tail(path):
            n = head.n + 1 if head is not None else 1
            problems.append(Problem(n, f"is cut off after {torn} bytes, as a crash leaves it"))
    last = head or Head()
    if known and last.n < max(known):
        problems.append(
            Problem(
                last.n, f"is the last one, and line {max(known)} was noted: the end was removed"
            )
        )
    if directory.exists() and read_head(directory) is None and files:
        problems.append(Problem(last.n, "is the last one as far as is known: there is no head"))
    return count, last, problems
