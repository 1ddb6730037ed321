"""The writer thread: group commit of batches.

Guarantee: batches are committed in the order of submission, none is skipped, and ``on_durable`` is
called in that order from the writer's thread. After the first error nothing is committed: that
batch, those committed with it and all later ones get the error. An error found by a reader
(``fail``) ends the writing likewise, and is reported even if nothing is queued.

Order: LMDB's write transactions belong to the thread that began them (used from two, the next one
hangs for ever), so ``commit`` runs only here. A batch nobody waits for is held back a moment: the
next fsync takes it along.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ha_scheduler.storage.errors import StoreClosed, StoreOverloaded
from ha_scheduler.storage.port import OnDurable, WriteBatch

QUEUE_BATCHES_MAX = 4096  # the core keeps far fewer in flight
QUEUE_BYTES_MAX = 256 * 1024 * 1024
TRANSACTION_BYTES_MAX = 32 * 1024 * 1024  # of a group; bounds the latency of one fsync
NO_BATCH = 0  # the number in the report of an error without a batch
COMPANY_WAIT_S = 0.002  # that a batch that is not urgent waits for an urgent one


class Writer:
    """One thread with a bounded queue."""

    def __init__(
        self, commit: Callable[[Sequence[WriteBatch]], None], on_durable: OnDurable, name: str
    ) -> None:
        """``commit`` makes a group of batches durable in one transaction, or raises."""
        self._commit = commit
        self._on_durable = on_durable
        self._queue: deque[WriteBatch] = deque()
        self._queue_bytes = 0
        self._urgent = 0
        self._changed = threading.Condition()
        self._closing = False
        self._failure: Exception | None = None
        self._unreported = False
        self.observe: Callable[[float], None] = _nobody  # seconds of each commit, in the thread
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def fail(self, error: Exception) -> None:
        """End the writing with ``error``. From any thread; the first error counts."""
        with self._changed:
            if self._failure is None:
                self._failure, self._unreported = error, True
            self._changed.notify()

    def submit(self, batch: WriteBatch) -> None:
        """Queue one batch. Raises ``StoreOverloaded`` or ``StoreClosed``."""
        with self._changed:
            self._check_room(batch)
            self._queue.append(batch)
            self._queue_bytes += batch.size_bytes
            self._urgent += batch.is_urgent
            self._changed.notify()

    def check_room(self, batch: WriteBatch) -> None:
        """As ``submit``, without queueing it: the room only grows meanwhile."""
        with self._changed:
            self._check_room(batch)

    def _check_room(self, batch: WriteBatch) -> None:
        if self._closing:
            raise StoreClosed
        size = self._queue_bytes + batch.size_bytes
        if self._queue and (len(self._queue) >= QUEUE_BATCHES_MAX or size > QUEUE_BYTES_MAX):
            raise StoreOverloaded(len(self._queue), self._queue_bytes)

    def close(self) -> None:
        """Commit the queue and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            if self._failure is None:
                self._try_commit(group)
            for batch in group:
                self._on_durable(batch.number, self._failure)
            if self._unreported:
                self._unreported = False
                self._on_durable(NO_BATCH, self._failure)

    def _try_commit(self, group: Sequence[WriteBatch]) -> None:
        begun = time.monotonic()
        try:
            self._commit(group)
            self.observe(time.monotonic() - begun)
        except Exception as error:  # any error of a commit ends the process
            self._failure = error

    def _next_group(self) -> list[WriteBatch] | None:
        """Everything queued, within the limits; None when closed and done."""
        with self._changed:
            while not self._queue and not self._closing and not self._unreported:
                self._changed.wait()
            if not self._queue and not self._unreported:
                return None
            if not self._urgent and not self._closing and not self._unreported:
                self._changed.wait_for(lambda: self._urgent or self._closing, COMPANY_WAIT_S)
            group: list[WriteBatch] = []
            size = 0
            while self._queue and size <= TRANSACTION_BYTES_MAX:
                # A snapshot takes long, and its failure must not fail other batches.
                if self._queue[0].snapshot is not None and group:
                    break
                batch = self._queue.popleft()
                group.append(batch)
                size += batch.size_bytes
                self._urgent -= batch.is_urgent
            self._queue_bytes -= size
            return group


def _nobody(seconds: float) -> None:
    pass
