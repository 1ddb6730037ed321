"""A journal on disk: a thread that writes to its file.

Guarantee: as ``keeper.py`` has it; what is kept is on the disk (fsync). What gathers while the last
transaction is written goes into the next one: nobody waits but who asks to (``wait``).

A full disk, or any other error of a transaction, fails its new entries: they are not kept, and so
not sent. What else was in it is tried again with the next one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import lmdb

from client_replay.errors import JournalFenced, JournalFull, JournalInUse, JournalUnusable
from client_replay.journal.file import (
    Contents,
    Identity,
    JournalFile,
    require_whole,
    rewrite,
)
from client_replay.journal.keeper import Append, Change, JournalEntry, Kept

logger = logging.getLogger("distributed.client.ha")

BATCH_BYTES = 64 * 1024 * 1024  # of one transaction, or one request of more
CLOSE_TIMEOUT_S = 10.0


def _ignore(*_: object) -> None:
    pass


class DiskKeeper:
    lasts = True

    def __init__(self, file: JournalFile, identity: Identity, kept: Kept) -> None:
        self.identity = identity
        self.on_kept: Callable[[], None] = _ignore
        self.on_failed: Callable[[list[JournalEntry], Exception], None] = _ignore
        self._file = file
        self._loaded = kept
        self._lock = threading.Condition()
        self._queue: list[list[Change]] = []
        self._backlog: list[Change] = []  # what was with entries that could not be kept
        self._written = 0  # calls of ``write``
        self._kept = 0  # of them
        self._error: JournalUnusable | None = None  # nothing is written any more
        self._ending = False
        self._thread = self._start()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="Dask-Journal", daemon=True)
        thread.start()
        return thread

    @classmethod
    def create(cls, path: Path, identity: Identity, bytes_max: int) -> DiskKeeper:
        """A new journal. Raises ``JournalUnusable`` and ``JournalInUse``."""
        file = JournalFile(path, bytes_max=bytes_max, create=True)
        try:
            if file.is_new():
                file.take(identity)
                return cls(file, identity, Kept())
            found = file.read()
            if found.open or found.keys:
                raise JournalInUse(
                    path,
                    f"it has {len(found.open)} requests that no cell has, and {found.wanted} "
                    f"results that nobody has fetched",
                    f"Go on with them by client_replay.resume({str(path)!r}), or take the file "
                    f"away",
                )
            file.take(identity)
            return cls(file, identity, Kept())
        except BaseException:
            file.close()
            raise

    @classmethod
    def resume(
        cls, path: Path, bytes_max: int, *, force: bool = False, damaged: bool = False
    ) -> DiskKeeper:
        """The journal of an earlier process. Raises ``JournalUnusable`` and its kinds.

        ``force``: although that lives, which is fenced. ``damaged``: what of it can be saved.
        """
        file = JournalFile(path, bytes_max=bytes_max, create=False)
        try:
            found = file.read()
            if not damaged:
                require_whole(path, found)
            if found.owner is None or not found.owner.is_alive() or force:
                file = _repaired(file, found, bytes_max)
            file.take(found.identity, force=force)
            _say_what_is_torn(path, found)
            return cls(file, found.identity, found.kept())
        except BaseException:
            file.close()
            raise

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def closed(self) -> bool:
        return self._ending or self._error is not None

    def load(self) -> Kept:
        loaded, self._loaded = self._loaded, Kept()
        return loaded

    def write(self, changes: Iterable[Change]) -> int:
        with self._lock:
            if self._error is not None:
                raise self._error
            self._queue.append(list(changes))
            self._written += 1
            self._lock.notify_all()
            return self._written

    def is_kept(self, number: int) -> bool:
        return self._kept >= number

    def wait(self, number: int, timeout_s: float | None = None) -> bool:
        with self._lock:
            self._lock.wait_for(lambda: self._kept >= number or self.closed, timeout_s)
            if self._error is not None:
                raise self._error
            return self._kept >= number

    def require_owner(self) -> None:
        """Raise ``JournalFenced`` if another process has taken over."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._ending:
                return
        try:
            self._file.require_owner()
        except JournalFenced as error:
            self._stop_writing(error)
            raise

    def close(self, *, remove: bool = False) -> None:
        with self._lock:
            if self._ending:
                return
            self._ending = True
            self._lock.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            return  # a disk that does not answer
        fenced = isinstance(self._error, JournalFenced)
        try:
            if not fenced:
                self._file.give_up()
        except lmdb.Error as error:
            logger.debug("The journal %s stays owned by this process: %s", self.path, error)
        if remove and not fenced and not self._backlog:
            self._file.remove()
        else:
            self._file.close()

    def abandon(self) -> None:
        """In a fork its thread is not there, and LMDB's handles are the parent's."""
        self._lock = threading.Condition()
        self._ending = True

    # ---- the thread

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._queue or self._ending)
                if not self._queue or self._error is not None:
                    return
                batch = self._take_batch()
            self._write(batch)
            del batch  # what has committed meanwhile is not held on to

    def _take_batch(self) -> list[list[Change]]:
        size = count = 0
        while count < len(self._queue) and size < BATCH_BYTES:
            size += sum(entry.nbytes for entry in _entries(self._queue[count]))
            count += 1
        batch, self._queue = self._queue[:count], self._queue[count:]
        return batch

    def _write(self, batch: list[list[Change]]) -> None:
        changes = [*self._backlog, *(change for each in batch for change in each)]
        try:
            self._file.apply(changes)
            self._backlog = []
        except JournalFenced as error:
            self._stop_writing(error)
            self.on_failed(_entries(changes), error)
        except Exception as error:  # also a defect of ours: what is not kept is not sent
            self._backlog = [change for change in changes if not isinstance(change, Append)]
            self._fail(_entries(changes), error)
        with self._lock:
            self._kept += len(batch)
            self._lock.notify_all()
        self.on_kept()

    def _fail(self, entries: list[JournalEntry], error: Exception) -> None:
        logger.warning(
            "The journal %s could not be written: %s: %s. %d requests are not submitted.",
            self.path, type(error).__name__, error, len(entries),
            extra={"action": "journal_write_failed"},
        )  # fmt: skip
        if entries:
            full = JournalFull(
                f"the journal {self.path} could not be written ({error}), so the request was not "
                f"submitted. Make room on its disk and submit it again."
            )
            full.__cause__ = error
            self.on_failed(entries, full)

    def _stop_writing(self, error: JournalUnusable) -> None:
        with self._lock:
            self._error = self._error or error
            self._lock.notify_all()


def _entries(changes: Iterable[Change]) -> list[JournalEntry]:
    return [change.entry for change in changes if isinstance(change, Append)]


def _repaired(file: JournalFile, found: Contents, bytes_max: int) -> JournalFile:
    """The file itself, or one with what could be read of it."""
    if not (found.damaged or found.torn or found.cut_short):
        return file
    file.close()
    rewrite(file.path, found, bytes_max)
    return JournalFile(file.path, bytes_max=bytes_max, create=False)


def _say_what_is_torn(path: Path, found: Contents) -> None:
    for what, lost in (("torn off the end of", found.torn), ("damaged in", found.damaged)):
        if lost:
            logger.warning(
                "%d requests were %s the journal %s, and are lost: number %s.",
                len(lost), what, path, ", ".join(map(str, list(lost)[:10])),
                extra={"action": "journal_cut"},
            )  # fmt: skip
