"""Imports ``client_replay`` as a machine without Linux's parts, and without the daemon's, would.

A process of its own: what is blocked stays so. Third parties are loaded before: on another system
they have parts for that.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import crc32c  # noqa: F401
import distributed  # noqa: F401
import lmdb  # noqa: F401
import msgspec  # noqa: F401
import psutil  # noqa: F401

#: Of the standard library, that Windows or macOS lack; of ours, what runs a cell.
LACKING = ("fcntl", "resource", "pwd", "grp", "termios", "syslog")
OF_A_CELL = tuple(
    f"ha_scheduler.{name}"
    for name in ("peer", "engine", "storage", "raft", "ledger", "confinement", "deploy", "cli",
                 "repair", "shared_lease", "shared_exposures")
)  # fmt: skip
ATTRIBUTES = ("register_at_fork", "fork", "getuid", "sched_getaffinity", "memfd_create")


class Blocked(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith((*LACKING, *OF_A_CELL)):
            raise ImportError(f"{fullname} is not on this machine")
        return None


def main() -> None:
    for name in LACKING:
        sys.modules.pop(name, None)
    for attribute in ATTRIBUTES:
        if hasattr(os, attribute):
            delattr(os, attribute)
    sys.meta_path.insert(0, Blocked())
    asyncio.run(connect(sys.argv[1]))


async def connect(journal: str) -> None:
    """A client looks for a leader, with a journal on disk."""
    import client_replay

    try:
        await client_replay.Client(
            "ha://127.0.0.1:1",
            journal=journal,
            timeout=0.3,
            asynchronous=True,
            set_as_default=False,
        )
    except OSError:
        sys.stdout.write("nobody leads\n")


if __name__ == "__main__":
    main()
