"""The history of leader changes in the data directory, beside the ledger.

Guarantee: the file is whole at any moment, and at most ``EVERY_S`` behind what this peer knows. It
is for people: nothing depends on it, and one that is damaged is begun anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path

import msgspec

from ha_scheduler.peer.operators.history import ENTRIES_MAX, LeaderHistory
from ha_scheduler.protocol.peer import Failover

FILE = "history.json"
EVERY_S = 1.0
FILE_BYTES_MAX = 4 * 1024 * 1024
MODE = 0o600

logger = logging.getLogger(__name__)


class HistoryFile:
    def __init__(self, directory: Path, history: LeaderHistory) -> None:
        self._path = directory / FILE
        self._history = history
        self._saved = 0
        self._failed = False

    def load(self) -> None:
        """Take in what an earlier run has kept."""
        with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
            with self._path.open("rb") as file:
                kept = file.read(FILE_BYTES_MAX)
            self._history.merge(msgspec.json.decode(kept, type=tuple[Failover, ...]))
        self._saved = self._history.changes

    async def run(self) -> None:
        """Keep every news, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            if self._history.changes != self._saved:
                await asyncio.to_thread(self.save)

    def save(self) -> None:
        """Write what is known, if anything is new."""
        changes = self._history.changes
        if changes == self._saved:
            return
        try:
            _replace(self._path, msgspec.json.encode(self._history.tail(ENTRIES_MAX)))
        except OSError as error:
            if not self._failed:
                logger.warning(
                    "the history of leader changes cannot be kept in %s: %s",
                    self._path,
                    error.strerror or error,
                    extra={"action": "history_not_kept"},
                )
            self._failed = True
            return
        self._saved, self._failed = changes, False


def _replace(path: Path, content: bytes) -> None:
    part = path.with_suffix(".new")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    part.replace(path)  # without fsync: it is for people, and whole after a crash of the process
