"""Exposures: this engine is about to read or run what somebody sent, which may end it.

Guarantee: while foreign code may run (unpickling, materialising, a call) the daemon can tell what
it is, however the engine ends (``shared_exposures.py``). What is set aside
(``ledger/quarantine.py``) is not read again: ``open`` raises ``SetAside``. A suspect is tried
alone: while it is open in one thread, nothing else is opened in another, so that the next death
says whose fault it is.

Order: an exposure is open while the foreign code itself runs, and not while it waits: a coroutine's
for each of its steps (``step_by_step``), a graph's in the thread that materialises it. Nobody waits
for a turn with an exposure open, so nobody waits for ever. What runs within an exposure is a part
of it, but for what has an owner of its own (``apart``): a plugin that hears of a graph, or what a
task left with a worker that reports.

An attempt to leave the process (``sys.exit``) is an error of whoever sent it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from hashlib import blake2b
from types import TracebackType
from typing import Any, TypeVar

from distributed.protocol.pickle import loads
from distributed.utils import nbytes

from ha_scheduler.errors import SetAside
from ha_scheduler.ledger.quarantine import Case, Cases
from ha_scheduler.protocol.engine import CONTENT_BYTES, Exposure
from ha_scheduler.shared_exposures import SharedExposures

NAME_CHARS = 100  # of a key or a client, for people
READ_BYTES_PER_S = 1_000_000  # at least; of a large graph more time is taken than of a small one
TASKS_PER_S = 1_000  # likewise; an engine makes ten times as many

T = TypeVar("T")


class LeavingRefused(RuntimeError):
    """Remote: code of a client raised ``SystemExit`` or ``KeyboardInterrupt`` in the scheduler."""


def digest(parts: Iterable[Any]) -> bytes:
    """By which a content is recognised, whoever sends it."""
    total = blake2b(digest_size=CONTENT_BYTES)
    for part in parts:
        view = memoryview(part)
        total.update(view.nbytes.to_bytes(8, "big"))
        total.update(view)
    return total.digest()


def short_name(value: Any) -> str:
    """A remote name, shortened for people."""
    text = value if isinstance(value, str) else repr(value)
    text = text.encode(errors="replace").decode()
    return text if len(text) <= NAME_CHARS else f"{text[: NAME_CHARS - 1]}…"


class Opened:
    """An exposure in its slot, as a context."""

    def __init__(
        self,
        pages: SharedExposures,
        threads: _Threads,
        exposure: Exposure,
        patience_s: float,
        *,
        apart: bool,
        fatal: bool,
    ) -> None:
        self._pages = pages
        self._threads = threads
        self._exposure = exposure
        self._patience_s = patience_s
        self._apart = apart
        self._fatal = fatal
        self._slot = 0

    def __enter__(self) -> Opened:
        self._outer = outer = self._threads.innermost
        if outer is not None and not self._apart:
            return self  # a part of what runs it
        if outer is not None:
            outer._close()
        self._open()
        self._threads.innermost = self
        return self

    def progress(self, patience_s: float) -> None:
        """It goes on, and may take so much longer than others until the next sign."""
        self._patience_s = patience_s
        self._pages.progress(self._slot, patience_s)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fatal and isinstance(error, Exception):
            return  # this process is about to end of it
        if self._threads.innermost is self:
            self._close()
            self._threads.innermost = outer = self._outer
            if outer is not None:
                outer._open()
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            raise LeavingRefused(
                f"{self._exposure.kind} {self._exposure.what} raised {error!r} in the scheduler, "
                "which goes on"
            ) from error

    def _open(self) -> None:
        self._slot = self._pages.open(self._exposure, self._patience_s)

    def _close(self) -> None:
        self._pages.close(self._slot)
        self._slot = 0


class _Threads(threading.local):
    """What is open in each thread."""

    innermost: Opened | None = None


class Exposures:
    """What this engine has open, and what it must not open."""

    def __init__(self, pages: SharedExposures | None = None) -> None:
        self.cases = Cases()
        self._pages = pages or SharedExposures(-1)
        self._threads = _Threads()
        self._turns = Turns()

    def open(
        self,
        exposure: Exposure,
        patience_s: float = 0.0,
        *,
        apart: bool = False,
        fatal: bool = False,
    ) -> Opened:
        """A context for the foreign code. Raises ``SetAside``.

        Within another one it is a part of that, unless ``apart``: then that one is not open
        meanwhile. ``fatal``: this process does not survive an error within, so that stays open.
        """
        self.check(exposure)
        return self.watch(exposure, patience_s, apart=apart, fatal=fatal)

    def watch(
        self,
        exposure: Exposure,
        patience_s: float = 0.0,
        *,
        apart: bool = False,
        fatal: bool = False,
    ) -> Opened:
        """As ``open``, of what has been let in already."""
        threads = self._threads
        return Opened(self._pages, threads, exposure, patience_s, apart=apart, fatal=fatal)

    def read(self, kind: str, what: Any, data: Any, *, apart: bool = False) -> Any:
        """Unpickle. Raises ``SetAside``, and whatever that raises."""
        exposure = Exposure(digest([data]), kind, short_name(what))
        with self.open(exposure, nbytes(data) / READ_BYTES_PER_S, apart=apart):
            return loads(data)

    def check(self, exposure: Exposure) -> None:
        """Raises ``SetAside``."""
        case = self.cases.get(exposure.content)
        if case is not None and case.set_aside:
            raise set_aside(exposure, case)

    def turn(self, exposure: Exposure) -> Turn:
        """A context in which the exposure may be open, beside others or alone."""
        return Turn(self._turns, alone=self._is_suspect(exposure))

    @types.coroutine
    def step_by_step(
        self,
        coroutine: Coroutine[Any, Any, T],
        exposure: Exposure,
        patience_s: Callable[[], float] = lambda: 0.0,
        *,
        apart: bool = False,
    ) -> Generator[Any, Any, T]:
        """Await the coroutine, with the exposure open while its code runs. Raises ``SetAside``."""
        error: BaseException | None = None
        try:
            while True:
                alone = self._is_suspect(exposure)
                if not self._turns.try_take(alone=alone):
                    yield from self._turns.take(alone=alone).__await__()
                try:
                    with self.open(exposure, patience_s(), apart=apart):
                        waits = coroutine.send(None) if error is None else coroutine.throw(error)
                except StopIteration as done:
                    result: T = done.value
                    return result
                finally:
                    self._turns.give_back()
                error = None
                try:
                    yield waits
                except GeneratorExit:
                    raise
                except BaseException as raised:
                    error = raised  # for the coroutine, as a cancellation is
        finally:
            coroutine.close()

    def _is_suspect(self, exposure: Exposure) -> bool:
        return self.cases.get(exposure.content) is not None


class Turns:
    """Many together, or one alone; in the order in which they come.

    A task has one turn, however often it takes it: what it waits for within a step may be a part of
    what takes the step.
    """

    def __init__(self) -> None:
        self._held: dict[asyncio.Task[Any] | None, int] = {}  # by whom, and how often
        self._alone = False
        self._waiting: deque[tuple[asyncio.Future[None], bool]] = deque()
        self._granted = 0

    def try_take(self, *, alone: bool) -> bool:
        """Take a turn, if this task has one or need not wait for it."""
        task = asyncio.current_task()
        held = self._held.get(task, 0)
        if not held:
            if self._waiting or not self._is_free(alone):
                return False
            self._grant(alone)
        self._held[task] = held + 1
        return True

    async def take(self, *, alone: bool) -> None:
        """Wait for a turn, if this task has none."""
        if not self.try_take(alone=alone):
            await self._wait(alone)
            self._held[asyncio.current_task()] = 1

    def give_back(self) -> None:
        """What this task has taken last; with the first, the turn is over."""
        task = asyncio.current_task()
        self._held[task] -= 1
        if not self._held[task]:
            del self._held[task]
            self._end()

    async def _wait(self, alone: bool) -> None:
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append((mine, alone))
        try:
            await mine
        except BaseException:
            if mine.done() and not mine.cancelled():
                self._end()
            else:
                self._waiting.remove((mine, alone))
                self._wake()
            raise

    def _is_free(self, alone: bool) -> bool:
        return not self._alone and not (alone and self._granted)

    def _grant(self, alone: bool) -> None:
        self._granted += 1
        self._alone = alone

    def _end(self) -> None:
        self._granted -= 1
        self._alone = False  # whoever is alone is the only one
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._is_free(self._waiting[0][1]):
            mine, alone = self._waiting.popleft()
            if not mine.done():
                self._grant(alone)
                mine.set_result(None)


class Turn:
    """A turn, for as long as its context is open."""

    def __init__(self, turns: Turns, *, alone: bool) -> None:
        self._turns = turns
        self._alone = alone

    async def __aenter__(self) -> None:
        await self._turns.take(alone=self._alone)

    async def __aexit__(self, *error: object) -> None:
        self._turns.give_back()


def set_aside(exposure: Exposure, case: Case) -> SetAside:
    """The error for whoever sent it."""
    request = f"request {exposure.sequence} of " if exposure.sequence else ""
    whose = f" ({request}{exposure.client})" if exposure.client else ""
    return SetAside(
        f"{exposure.kind} {exposure.what}{whose} was set aside: {len(case.deaths)} scheduler "
        f"processes ended while they read or ran it, by {case.reason}. Nothing is done with it. "
        "Mend what it holds and send it again, or have an operator let this one be tried again: "
        f"dask-ha-scheduler quarantine release {exposure.content.hex()}"
    )


def note_own_signals(pages: SharedExposures) -> None:
    """A SIGKILL tells nothing of its sender: say it when this process is its own.

    For what a program does in Python; a library that is at fault faults, and needs no telling.
    """
    kill, raise_signal = os.kill, signal.raise_signal

    def kill_and_tell(pid: int, number: int) -> None:
        if pid in (0, os.getpid()):
            pages.signals_itself(int(number))
        kill(pid, number)

    def raise_and_tell(number: int) -> None:
        pages.signals_itself(int(number))
        raise_signal(number)

    os.kill, signal.raise_signal = kill_and_tell, raise_and_tell
