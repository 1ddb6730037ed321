"""The scheduler file (``--scheduler-file``): where the cell is, for clients and workers to read.

Guarantee: it is whole at any moment, and never goes back: a daemon writes it when it knows a leader
that serves, and not over what one of a later term has written. So all peers of a cell may share
one. Its address names all peers, and the file itself: who has read it once reads it again when it
looks for a leader, and finds a cell that has moved.

Files of a network may hang: they are written in a thread, one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ha_scheduler.cell.address import join_address
from ha_scheduler.protocol.watch import WatchView

LOOK_EVERY_S = 0.5
FILE_BYTES_MAX = 1024 * 1024
MODE = 0o644  # addresses are no secret; certificates and tokens let in

logger = logging.getLogger(__name__)


class SchedulerFile:
    def __init__(self, path: Path, view: Callable[[], WatchView]) -> None:
        self._path = path
        self._view = view
        self._failure = ""

    async def run(self) -> None:
        """Write every news, until cancelled."""
        written: WatchView | None = None
        while True:
            view = self._view()
            if view.address and view != written and await asyncio.to_thread(self._write, view):
                written = view
            await asyncio.sleep(LOOK_EVERY_S)

    def _write(self, view: WatchView) -> bool:
        """Whether the file has what this view says, or more."""
        try:
            if not _is_newer(self._path, view):
                write(self._path, content(view, self._path))
        except OSError as error:
            if str(error) != self._failure:
                self._failure = str(error)
                logger.warning(
                    "The scheduler file %s cannot be written, and may be out of date: %s",
                    self._path,
                    error.strerror or error,
                    extra={"action": "scheduler_file"},
                )
            return False
        self._failure = ""
        return True


def content(view: WatchView, path: Path) -> dict[str, Any]:
    """As Dask's own, and who leads."""
    peers = [join_address(peer.host, peer.dask_port) for peer in view.peers]
    return {
        "type": "Scheduler",
        "id": f"Scheduler-{view.cell_id}",
        "address": f"ha://{','.join(peers)},@{path}",
        "services": {},
        "workers": {},
        "leader": view.leader,
        "leader_address": view.address,
        "term": view.term,
        "cell_id": view.cell_id,
    }


def write(path: Path, said: dict[str, Any]) -> None:
    """Replace the file. Raises ``OSError``."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("w") as file:
            json.dump(said, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), MODE)
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _is_newer(path: Path, view: WatchView) -> bool:
    """Whether a leader of our cell wrote it in a later term. Raises ``OSError``."""
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(FILE_BYTES_MAX))
        return bool(said["cell_id"] == view.cell_id and said["term"] > view.term)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
