"""The kernel's count of processes that it killed for want of memory.

Guarantee: a count that never sinks while the daemon runs, and does not move when a process is
killed by anybody else. That of the daemon's own control group, where its engine is; without one,
that of the host. 0 where neither can be read: then no SIGKILL is taken for the kernel's.
"""

from __future__ import annotations

from pathlib import Path

_CGROUP = Path("/proc/self/cgroup")
_HOST = Path("/proc/vmstat")
_MOUNT = Path("/sys/fs/cgroup")
_COUNT = "oom_kill"


class OomKills:
    def __init__(self, path: Path | None = None) -> None:
        self._path = path or _find()

    def count(self) -> int:
        """The present count."""
        return 0 if self._path is None else _read(self._path)


def _find() -> Path | None:
    try:
        lines = _CGROUP.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        group = group.lstrip("/")
        events = _MOUNT / group / "memory.events"  # version 2
        if "memory" in controllers.split(","):  # version 1
            events = _MOUNT / "memory" / group / "memory.oom_control"
        if _has(events):
            return events
    return _HOST if _has(_HOST) else None


def _has(path: Path) -> bool:
    try:
        return any(line.split(" ")[0] == _COUNT for line in path.read_text().splitlines())
    except OSError:
        return False


def _read(path: Path) -> int:
    try:
        for line in path.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == _COUNT:
                return int(count)
    except (OSError, ValueError):
        pass
    return 0
