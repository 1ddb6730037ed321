"""Clocks of a peer's daemon and engine that jump, run at another pace, or stood still.

A library that is preloaded into them (``clock.c``) adds to their clocks what a shared page says, so
a running process's clock can be changed, and nobody else's is. Kinds:

    forward, back   the wall clock jumps, and stays so until the heal
    fast, slow      all clocks gain or lose a part of each second
    asleep          the processes are stopped; at the heal all clocks have moved on by hours
    halted          the processes are stopped, and no clock has moved at the heal, as of a virtual
                    machine that its hypervisor had paused: nothing within it can tell

Proof: the library is mapped into the process, and the clock of one that is started with the same
page is off by as much as it should be.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import SIGCONT
from typing import TYPE_CHECKING

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
    lacks,
    one_of,
)
from chaos.faults.process import freeze

if TYPE_CHECKING:
    from chaos.targets.base import Target

SOURCE = Path(__file__).with_name("clock.c")
JUMP_S = 3600.0
HOURS_S = 5 * 3600.0
OBSERVED_S = 1.0
ENGINE_FIRST_S = 0.1
GAIN = 0.3  # seconds in each second

_PAGE = struct.Struct("@qqqd")
_NS = 1_000_000_000


def prepare(target: Target) -> None:
    """Give each peer the library and a page of its own, from its next start on."""
    target.root.mkdir(parents=True, exist_ok=True)
    library = target.root / "clock.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotInject(f"{SOURCE.name} cannot be compiled: {done.stderr.strip()}")
    for peer in target.peers:
        page = page_of(target, peer)
        page.write_bytes(bytes(_PAGE.size))
        target.environment(peer).update({"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(page)})
        target.options(peer).extend(["--engine-env=LD_PRELOAD", "--engine-env=CHAOS_CLOCK"])


def page_of(target: Target, peer: str) -> Path:
    return target.root / f"clock-{peer}"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is added to the clocks. Seconds, and seconds in each second."""

    steady_s: float = 0.0
    wall_s: float = 0.0
    gain: float = 0.0

    def write(self, page: Path) -> None:
        since = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        packed = _PAGE.pack(int(self.steady_s * _NS), int(self.wall_s * _NS), since, self.gain)
        with page.open("r+b") as file:  # in place: it is mapped
            file.write(packed)


SETTINGS = {
    "forward": Setting(wall_s=JUMP_S),
    "back": Setting(wall_s=-JUMP_S),
    "fast": Setting(gain=GAIN),
    "slow": Setting(gain=-GAIN),
}


@dataclass
class Skewed:
    """Peers whose clocks are off."""

    target: Target
    kind: str
    peers: Sequence[str]
    seen: list[str] = field(default_factory=list)
    healed: bool = False
    will: Sequence[Command] = ()

    def heal(self) -> None:
        if not self.healed:
            for peer in self.peers:
                Setting().write(page_of(self.target, peer))
            self.healed = True

    def proof(self) -> str | None:
        if not self.healed:
            self.seen = [text for peer in self.peers if (text := self._see(peer)) is not None]
        return "; ".join(self.seen) or None

    def _see(self, peer: str) -> str | None:
        pid = self.target.pids(peer).daemon
        if pid is None or "clock.so" not in Path(f"/proc/{pid}/maps").read_text():
            return None
        off = probe(self.target, peer)
        return f"the clock of {peer} is off by {off:.1f} s" if abs(off) > 0.01 else None


def probe(target: Target, peer: str) -> float:
    """By how much the wall clock of a process with the peer's page is off, in seconds."""
    environment = {**target.environment(peer), "PYTHONPATH": ""}
    command = [sys.executable, "-S", "-c", "import time; print(time.time())"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout) - time.time()


@dataclass
class Stopped:
    """A peer that is stopped, and whose clocks are elsewhere when it goes on."""

    target: Target
    kind: str
    peer: str
    frozen: Active
    observed: subprocess.Popen[bytes] | None = None
    began: float = field(default_factory=time.monotonic)
    healed: bool = False

    def heal(self) -> None:
        if self.healed:
            return
        self.healed = True
        away = time.monotonic() - self.began
        moved = HOURS_S if self.kind == "asleep" else -away
        Setting(moved, moved).write(page_of(self.target, self.peer))
        # Its daemon could know better at once: the engine is to say what it would say.
        self.target.signal(self.peer, "engine", SIGCONT)
        time.sleep(ENGINE_FIRST_S)
        self.frozen.heal()
        if self.observed is not None:
            time.sleep(OBSERVED_S)  # what it asked while nothing ran is answered now
            observer.stop(self.observed)

    def proof(self) -> str | None:
        stopped = self.frozen.proof()
        if stopped is None or not self.healed:
            return stopped
        return f"{stopped}; its clocks are off by {probe(self.target, self.peer):.0f} s since"

    @property
    def will(self) -> Sequence[Command]:
        return self.frozen.will


def _skew(target: Target, random: Random, kind: str, lasts_s: float | None, word: str) -> Active:
    peers = chosen(target, word, random)
    if kind in ("asleep", "halted"):
        observed = observer.start(target, peers[0], random.getrandbits(32))
        return Stopped(target, kind, peers[0], freeze(target, random, peers[0]), observed)
    for peer in peers:
        SETTINGS[kind].write(page_of(target, peer))
    return Skewed(target, kind, peers)


def _lacks(target: Target) -> str | None:
    if shutil.which("cc") is None:
        return "a C compiler (cc) is missing: scripts/install-system-packages --chaos"
    return lacks("processes", "environment")(target)


FAULTS: tuple[Fault, ...] = (
    Simple(
        "clock",
        "Clocks of a peer jump, run fast or slow, or have moved by hours, or not, in a pause.",
        _skew,
        (one_of(*SETTINGS, "asleep", "halted"), LASTS, VICTIM),
        _lacks,
        prepare=prepare,
    ),
)
