"""One process of a workload: its client, its history, its random numbers, and when to stop.

Guarantee: whatever is asked of the cluster is in the history before it is asked, and how it ended
is there before anything follows from it. An answer that says neither yes nor no is ``info``.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import distributed
import msgspec

from chaos.history import Type, Writer

JITTER = 0.5  # of the time between two operations
BATCH = 64  # futures whose results are fetched in one call

#: Errors after which nobody knows whether it was done.
UNKNOWN = (OSError, TimeoutError)  # ``CommClosedError`` and ``OutcomeUnknown`` are the former


class Settings(msgspec.Struct, frozen=True):
    """What the harness tells a process. ``directory``: where its tasks leave files."""

    workload: str
    process: str
    role: str
    address: str
    seed: int
    rate: float
    deadline_s: float
    clients: int
    workers: int
    directory: str
    history: str


class Session:
    """See the module. ``client`` is made by ``workloads/process.py``."""

    def __init__(self, settings: Settings, client: Any, history: Writer) -> None:
        self.settings = settings
        self.client = client
        self.history = history
        self.random = Random(f"{settings.seed} {settings.process}")
        self.stopping = threading.Event()
        self._outstanding: dict[int, tuple[str, str, Any]] = {}
        self._changed = threading.Condition()
        self._ended: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._gatherer = threading.Thread(target=self._gather, name="gatherer", daemon=True)
        self._gatherer.start()

    @property
    def directory(self) -> Path:
        """Where tasks leave files."""
        return Path(self.settings.directory)

    @property
    def name(self) -> str:
        """Unique in the run: a prefix for keys."""
        return self.settings.process

    def pace(self, rate: float | None = None) -> bool:
        """Wait as the rate says; whether to go on."""
        mean = 1 / (rate or self.settings.rate)
        return not self.stopping.wait(mean * self.random.uniform(1 - JITTER, 1 + JITTER))

    # -- futures

    def submit(
        self,
        key: str,
        function: Callable[..., Any],
        *arguments: Any,
        expected: Any,
        by: Any = None,
        **options: Any,
    ) -> Any:
        """A task whose end is noted when it comes. ``by``: another client than the session's.

        ``options``: as of ``Client.submit``.
        """
        op = self.history.invoke("submit", key, expected=expected)
        future = (by or self.client).submit(function, *arguments, key=key, **options)
        self._track(op, "submit", key, future)
        return future

    def compute(self, f: str, key: str, future: Any, expected: Any) -> None:
        """Note the end of a future that somebody else made."""
        self._track(self.history.invoke(f, key, expected=expected), f, key, future)

    def outstanding(self) -> int:
        return len(self._outstanding)

    def wait_below(self, count: int, timeout_s: float) -> bool:
        """Until fewer than ``count`` are under way; whether that was so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._outstanding) < count, timeout_s)

    def _track(self, op: int, f: str, key: str, future: Any) -> None:
        with self._changed:
            self._outstanding[op] = (f, key, future)
        future.add_done_callback(lambda _: self._ended.put(op))

    def _gather(self) -> None:
        while (first := self._ended.get()) is not None:
            batch: list[int | None] = [first]
            while len(batch) < BATCH and batch[-1] is not None and not self._ended.empty():
                batch.append(self._ended.get())
            self._conclude([op for op in batch if op is not None])
            if batch[-1] is None:
                return

    def _conclude(self, batch: list[int]) -> None:
        """Fetch what all of them have in one call if that can be, else one after the other."""
        ended = [self._outstanding[op] for op in batch]
        of_client: dict[Any, list[Any]] = {}
        for _, _, future in ended:
            of_client.setdefault(future.client, []).append(future)
        values: dict[Any, Any] = {}
        for client, own in of_client.items():
            if len(own) > 1 and all(future.status == "finished" for future in own):
                with contextlib.suppress(Exception):  # then each tells its own error
                    keys = [future.key for future in own]
                    values.update(zip(keys, client.gather(own), strict=True))
        for op, (f, key, future) in zip(batch, ended, strict=True):
            if future.key in values:
                self.history.end(op, "ok", f, key, plain(values[future.key]))
            else:
                call = partial(future.result, self.settings.deadline_s)
                type, value, error = outcome(call)
                self.history.end(op, type, f, key, value, error)
            with self._changed:
                del self._outstanding[op]
                self._changed.notify_all()

    # -- calls

    def call(
        self,
        f: str,
        key: str,
        call: Callable[[], Any],
        value: Any = None,
        expected: Any = None,
        refused: tuple[type[BaseException], ...] = (),
    ) -> tuple[Type, Any]:
        """Do it now; how it ended, and with what. ``refused``: errors that say it was not done.

        After any other error nobody knows.
        """
        op = self.history.invoke(f, key, value, expected)
        type, got, error = outcome(call, refused, Exception)
        self.history.end(op, type, f, key, got, error)
        return type, got

    # -- the end

    def finish(self) -> None:
        """Wait for what is under way, and note what never came."""
        deadline = time.monotonic() + self.settings.deadline_s
        self.wait_below(1, deadline - time.monotonic())
        self._ended.put(None)
        for op, (f, key, future) in list(self._outstanding.items()):
            error = f"no end in {self.settings.deadline_s:g} s: {future.status}"
            self.history.end(op, "info", f, key, error=error)
        self.history.note("finished", {"abandoned": len(self._outstanding)})


def outcome(
    call: Callable[[], Any],
    refused: tuple[type[BaseException], ...] = (),
    unclear: type[Exception] | tuple[type[Exception], ...] = UNKNOWN,
) -> tuple[Type, Any, str]:
    """How a call ended, its value, and its error in words."""
    try:
        return "ok", plain(call()), ""
    except refused as error:
        return "fail", None, in_words(error)
    except (concurrent.futures.CancelledError, distributed.client.FutureCancelledError) as error:
        return "fail", None, f"cancelled: {error}"
    except unclear as error:
        return "info", None, in_words(error)
    except Exception as error:
        return "fail", None, in_words(error)


def in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def plain(value: Any) -> Any:
    """As JSON has it."""
    return msgspec.to_builtins(value, builtin_types=(), str_keys=True)


def leave_line(directory: str, file: str, *words: object) -> None:
    """One line, in one write that no other can fall into."""
    line = "\t".join(map(str, words)) + "\n"
    descriptor = os.open(Path(directory, file), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
