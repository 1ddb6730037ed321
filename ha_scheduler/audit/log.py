"""The audit log of a process: append-only, bounded, and never in the way.

Guarantee: ``record`` does not wait for the disk. A line is written within milliseconds, so it
outlives the process, and is on the disk within ``SYNC_S`` (``close`` and ``settle`` wait for that):
a host that crashes loses at most the lines of that time, and the chain begins again at the last
whole one. What cannot be written (a full disk, more than ``QUEUE_MAX`` events at once) is counted,
and the next line says how many are missing and since when. Nothing that the log does ends its
process.

Authentications and refusals are many: of one kind, subject and role one line is written in
``REPEAT_S``, with the number of those that it stands for.

One thread owns the files. Order: lines, sync, head (``audit/files.py``).
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ha_scheduler.audit import files
from ha_scheduler.audit.chain import Event, Head, extend, follow
from ha_scheduler.security.identity import Identity

logger = logging.getLogger(__name__)

SYNC_S = 1.0
QUEUE_MAX = 10_000  # events that wait for the disk; some megabytes
REPEAT_S = 60.0
REPEATED = frozenset({Event.AUTHENTICATED, Event.REFUSED})
REPEATED_MAX = 1_000  # kinds and subjects that are remembered
COMPLAIN_S = 60.0
_END = object()
HEAD_LOGGED_EVERY = 1_000  # lines; the ordinary log is the note of the head that goes elsewhere


class AuditLog:
    """In ``directory``, which is made. Raises ``OSError`` when it cannot be begun."""

    def __init__(
        self,
        directory: Path,
        name: str,
        clock: Callable[[], float] = time.time,
        *,
        file_bytes_max: int = files.FILE_BYTES_MAX,
    ) -> None:
        """``name``: of the peer. ``clock``: seconds since the epoch."""
        self._directory, self._name, self._clock = directory, name, clock
        self._bytes_max = file_bytes_max
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._head, self._descriptor, self._size = Head(), -1, 0
        self._lost, self._lost_since, self._complained = 0, 0.0, -COMPLAIN_S
        self._lock = threading.Lock()
        self._repeated: OrderedDict[tuple[str, ...], tuple[float, int]] = OrderedDict()
        self._queue: queue.Queue[Any] = queue.Queue(QUEUE_MAX)
        self._begin()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def record(self, event: Event, identity: Identity | None = None, **what: Any) -> None:
        """Note that something happened, on whose behalf. From any thread; raises nothing."""
        fields = {"peer": self._name, **_who(identity), **what}
        if event in REPEATED:
            times = self._times((event, *map(str, _who(identity).values()), str(what.get("what"))))
            if not times:
                return
            fields["times"] = times
        self._put((self._clock(), event, fields))

    def settle(self) -> None:
        """Wait until all that was recorded is on the disk, or counted as lost."""
        done = threading.Event()
        self._queue.put(done)
        done.wait()

    def close(self) -> None:
        self.record(Event.CLOSED)
        self._queue.put(_END)
        self._thread.join()

    def _put(self, item: tuple[float, str, dict[str, Any]]) -> None:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            with self._lock:
                self._lose(item[0])

    def _times(self, kind: tuple[str, ...]) -> int:
        """How many the next line of this kind stands for; 0: none is due."""
        now = self._clock()
        with self._lock:
            since, unsaid = self._repeated.pop(kind, (now - REPEAT_S, 0))
            due = now - since >= REPEAT_S
            self._repeated[kind] = (now, 0) if due else (since, unsaid + 1)
            if len(self._repeated) > REPEATED_MAX:
                self._repeated.popitem(last=False)
            return unsaid + 1 if due else 0

    # -- the thread

    def _begin(self) -> None:
        """Find the last whole line, and say what is missing."""
        path = self._directory / files.CURRENT
        existing = files.paths(self._directory)
        self._descriptor = files.open_append(path)
        torn = files.torn_tail(path)
        self._size = path.stat().st_size - torn
        os.ftruncate(self._descriptor, self._size)
        for each in reversed(existing):
            heads = [head for head, _ in follow(files.lines_of(each), None)]
            if heads:
                self._head = heads[-1]
                break
        noted = files.read_head(self._directory)
        found: list[tuple[Event, dict[str, Any]]] = [(Event.OPENED, {"pid": os.getpid()})]
        if torn:
            found.append((Event.TORN, {"bytes": torn}))
        if noted is not None and noted.n > self._head.n:
            found.append((Event.MISSING, {"last": self._head.n, "noted": noted.n}))
            logger.error(
                "The audit log ends with line %d, and line %d was there: its end was removed.",
                self._head.n,
                noted.n,
                extra={"action": "audit_shortened"},
            )
        for event, fields in found:
            self._write(self._clock(), event, {"peer": self._name, **fields})
        self._sync()

    def _run(self) -> None:
        due: float | None = None  # when what was written has to be on the disk
        while True:
            item = self._next(due)
            if isinstance(item, tuple):
                self._write(*item)
                due = due or time.monotonic() + SYNC_S
            if not isinstance(item, tuple) or time.monotonic() >= (due or 0.0):
                self._sync()
                due = None
            if isinstance(item, threading.Event):
                item.set()
            elif item is _END:
                os.close(self._descriptor)
                return

    def _next(self, due: float | None) -> Any:
        """What is to be done; None when something is due."""
        try:
            wait_s = None if due is None else max(0.0, due - time.monotonic())
            return self._queue.get(timeout=wait_s)
        except queue.Empty:
            return None

    def _write(self, at: float, event: str, fields: dict[str, Any]) -> None:
        with self._lock:
            lost, since = self._lost, self._lost_since
        try:
            if lost:
                self._append(at, Event.GAP, {"peer": self._name, "lost": lost, "since": since})
                with self._lock:
                    self._lost -= lost
            self._append(at, event, fields)
        except OSError as error:
            with self._lock:
                self._lose(at)
            self._complain(error)

    def _append(self, at: float, event: str, fields: dict[str, Any]) -> None:
        """Write a whole line or nothing. Raises ``OSError``."""
        if self._size > self._bytes_max:
            self._rotate()
        line, head = extend(self._head, at, event, fields)
        try:
            written = os.write(self._descriptor, line + b"\n")
            if written <= len(line):
                raise OSError("the disk took a part of a line")
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._head, self._size = head, self._size + written
        if head.n % HEAD_LOGGED_EVERY == 1:
            note = {"action": "audit_head"}
            logger.info("The audit log has line %s.", head, extra=note)

    def _rotate(self) -> None:
        current = self._directory / files.CURRENT
        first = next(follow(files.lines_of(current), None))[0].n
        self._sync()
        os.rename(current, self._directory / files.archived(first))
        os.close(self._descriptor)
        self._descriptor, self._size = files.open_append(current), 0
        for old in files.paths(self._directory)[: -files.FILES_MAX]:
            old.unlink()

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
            files.write_head(self._directory, self._head)
        except OSError as error:
            self._complain(error)

    def _lose(self, at: float) -> None:
        if not self._lost:
            self._lost_since = at
        self._lost += 1

    def _complain(self, error: OSError) -> None:
        if time.monotonic() - self._complained >= COMPLAIN_S:
            self._complained = time.monotonic()
            logger.error(
                "The audit log in %s cannot be written (%s); what happens meanwhile is counted. "
                "Make room there.",
                self._directory,
                error.strerror or error,
                extra={"action": "audit_unwritten"},
            )


def _who(identity: Identity | None) -> dict[str, str]:
    if identity is None:
        return {}
    who = {"subject": identity.subject, "role": str(identity.role)}
    return {**who, "token_id": identity.token_id} if identity.token_id else who
