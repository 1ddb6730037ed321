"""Deaths and freezes of processes: the daemon, the engine or both, of whom a word names.

``kill`` and ``terminate`` leave the peer down until the heal starts it again on its data; an engine
alone comes back by itself. ``storm`` and ``rolling`` do both over and over by themselves.

Proof: the very process (its id *and* when it began) is gone, or was seen stopped.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import psutil

from chaos.faults import observer
from chaos.faults.base import (
    LASTS,
    VICTIM,
    Active,
    CannotInject,
    Command,
    Fault,
    Simple,
    chosen,
    duration,
    lacks,
    number,
    one_of,
)

if TYPE_CHECKING:
    from chaos.targets.base import Target

Part = Literal["daemon", "engine", "both"]
PART = one_of("both", "daemon", "engine")

SEEN_S_MAX = 2.0  # until a signal has taken effect
TERMINATED_S_MAX = 30.0  # a leader hands over before it ends
POLL_S = 0.005
BACK_S_MAX = 60.0  # until a peer that was started again is up, in ``rolling``


def processes(target: Target, peer: str, part: Part) -> list[psutil.Process]:
    """Those of a peer that run at this moment."""
    pids = target.pids(peer)
    wanted = {
        "daemon": (pids.daemon,),
        "engine": (pids.engine,),
        "both": (pids.daemon, pids.engine),
    }[part]
    found = []
    for pid in wanted:
        with contextlib.suppress(psutil.NoSuchProcess):
            if pid is not None:
                found.append(process_of(target, peer, pid))
    return found


def process_of(target: Any, peer: str, pid: int) -> psutil.Process:
    """Of this host, or what a target on others has in its place."""
    of_target = getattr(target, "process_of", None)
    return psutil.Process(pid) if of_target is None else of_target(peer, pid)


def there(target: Any, peer: str, *command: str) -> Command:
    """The words that run a command where the peer runs."""
    of_target = getattr(target, "there", None)
    return command if of_target is None else of_target(peer, *command)


def is_gone(process: psutil.Process) -> bool:
    """Whether the process has ended, be its id in use again or not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return met


@dataclass
class Ended:
    """Processes that a signal was to end, and peers that are to be started again."""

    target: Target
    peers: Sequence[str]
    part: Part
    struck: list[psutil.Process] = field(default_factory=list)
    healed: bool = False
    will: Sequence[Command] = ()

    def heal(self) -> None:
        if self.healed:
            return
        if self.part != "engine":  # a daemon starts its engine
            for peer in self.peers:
                self.target.restart(peer)
        self.healed = True

    def proof(self) -> str | None:
        gone = [process.pid for process in self.struck if is_gone(process)]
        return f"ended: {', '.join(map(str, gone))}" if len(gone) == len(self.struck) > 0 else None


def _end(number: signal.Signals, seen_s: float) -> Callable[..., Active]:
    def make(target: Target, random: Random, part: Part, word: str) -> Active:
        active = Ended(target, chosen(target, word, random), part)
        for peer in active.peers:
            active.struck += _strike(target, peer, part, number)
        _until(lambda: active.proof() is not None, seen_s)
        return active

    return make


def _strike(
    target: Target, peer: str, part: Part, number: signal.Signals
) -> Sequence[psutil.Process]:
    struck = processes(target, peer, part)
    if not struck:
        raise CannotInject(f"peer {peer} has no {part} process at the moment")
    target.signal(peer, part, number)
    return struck


@dataclass
class Frozen:
    """Processes that do not run, with all that they hold."""

    target: Target
    peers: Sequence[str]
    part: Part
    seen: list[str] = field(default_factory=list)
    will: Sequence[Command] = ()
    healed: bool = False

    def heal(self) -> None:
        if self.healed:
            return
        for peer in self.peers:
            # The engine first: a daemon that wakes alone could take it for hung.
            for part in ("engine", "daemon") if self.part == "both" else (self.part,):
                with contextlib.suppress(ProcessLookupError):
                    self.target.signal(peer, part, signal.SIGCONT)
        self.healed = True

    def proof(self) -> str | None:
        return "; ".join(self.seen) or None


def _freeze(target: Target, random: Random, part: Part, lasts_s: float | None, word: str) -> Active:
    active = Frozen(target, chosen(target, word, random), part)
    for peer in active.peers:
        struck = _strike(target, peer, part, signal.SIGSTOP)
        active.will = (
            *active.will,
            *(there(target, peer, "kill", "-CONT", str(p.pid)) for p in struck),
        )
        if _until(partial(_are_stopped, struck), SEEN_S_MAX):
            active.seen.append(f"{peer} stopped: {', '.join(str(p.pid) for p in struck)}")
    return active


def _are_stopped(processes: Sequence[psutil.Process]) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return all(process.status() == psutil.STATUS_STOPPED for process in processes)
    return False


class Repeated:
    """Deaths one after the other, by a thread, until there were enough or the heal."""

    will: Sequence[Command] = ()

    def __init__(self, target: Target, blows: Iterable[Callable[[], Active]], every_s: float):
        self._stop = threading.Event()
        self._done: list[Active] = []
        self._errors: list[str] = []
        self._thread = threading.Thread(target=self._run, args=(target, blows, every_s))
        self._thread.start()

    def heal(self) -> None:
        self._stop.set()
        self._thread.join()
        for active in self._done:
            active.heal()

    def proof(self) -> str | None:
        fired = [proof for active in self._done if (proof := active.proof()) is not None]
        return f"{len(fired)} deaths: {'; '.join(fired)}" if len(fired) > 1 else None

    def _run(self, target: Target, blows: Iterable[Callable[[], Active]], every_s: float) -> None:
        for blow in blows:
            with contextlib.suppress(CannotInject):
                active = blow()
                self._done.append(active)
                active.heal()
            if self._stop.wait(every_s):
                return


def kill(target: Target, random: Random, word: str, part: Part = "both") -> Active:
    """SIGKILL, for faults of which it is a part."""
    return _end(signal.SIGKILL, SEEN_S_MAX)(target, random, part, word)


def freeze(target: Target, random: Random, word: str) -> Active:
    """SIGSTOP, for faults of which it is a part."""
    return _freeze(target, random, "both", None, word)


def _storm(
    target: Target, random: Random, count: int, every_s: float, part: Part, word: str
) -> Active:
    return Repeated(target, [lambda: kill(target, random, word, part)] * count, every_s)


def _rolling(target: Target, random: Random, pause_s: float) -> Active:
    """Terminate each peer, and go to the next when it is back."""

    def blow(peer: str) -> Active:
        active = _end(signal.SIGTERM, TERMINATED_S_MAX)(target, random, "daemon", peer)
        active.heal()
        _until(lambda: target.pids(peer).engine is not None, BACK_S_MAX)
        return active

    blows = [partial(blow, peer) for peer in target.peers]
    return Repeated(target, blows, pause_s)


@dataclass
class Orphaned:
    """An engine whose daemon is stopped, and a client that believes it."""

    frozen: Active
    observed: subprocess.Popen[bytes] | None

    def heal(self) -> None:
        self.frozen.heal()
        if self.observed is not None:
            observer.stop(self.observed)

    def proof(self) -> str | None:
        return self.frozen.proof()

    @property
    def will(self) -> Sequence[Command]:
        return self.frozen.will


def _orphan(target: Target, random: Random, lasts_s: float | None, word: str) -> Active:
    peer, *_ = chosen(target, word, random)
    observed = observer.start(target, peer, random.getrandbits(32))
    return Orphaned(_freeze(target, random, "daemon", None, peer), observed)


_SIGNALS = lacks("processes")

FAULTS: tuple[Fault, ...] = (
    Simple(
        "kill",
        "SIGKILL; the heal starts the peer again on its data.",
        _end(signal.SIGKILL, SEEN_S_MAX),
        (PART, VICTIM),
        _SIGNALS,
    ),
    Simple(
        "terminate",
        "SIGTERM: a leader hands over first; the heal starts the peer again.",
        _end(signal.SIGTERM, TERMINATED_S_MAX),
        (one_of("daemon"), VICTIM),
        _SIGNALS,
    ),
    Simple(
        "pause",
        "SIGSTOP, for as long as is said: also for longer than the lease.",
        _freeze,
        (PART, LASTS, VICTIM),
        _SIGNALS,
    ),
    Simple(
        "orphan",
        "SIGSTOP to the daemon alone, while a client that follows nobody reads from its engine.",
        _orphan,
        (LASTS, VICTIM),
        lacks("processes", "control"),
    ),
    Simple(
        "storm",
        "Killed and started again at once, COUNT times.",
        _storm,
        (number("COUNT", 5, most=100), duration("EVERY", 0.5), PART, VICTIM),
        _SIGNALS,
    ),
    Simple(
        "rolling",
        "Every peer is terminated and started again, one after the other.",
        _rolling,
        (duration("BETWEEN", 1.0),),
        _SIGNALS,
    ),
)
