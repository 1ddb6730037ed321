"""Disks that fail under a running daemon: its system calls do as strace says.

A daemon that cannot write ends, and is started again by the heal, as a service manager would.

Proof: strace's own record of the calls that it changed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from chaos.targets.base import Target

SLOW_US = 200_000
#: What happens, as strace has it. LMDB commits by pwrite64 and fdatasync.
INJECTIONS = {
    "slow-fsync": f"fdatasync:delay_enter={SLOW_US}",
    "eio-fsync": "fdatasync:error=EIO",
    "eio-write": "pwrite64:error=EIO",
    "full": "pwrite64:error=ENOSPC",
    "readonly": "pwrite64:error=EROFS",
}
MARKS = ("(INJECTED)", "(DELAYED)")


@dataclass
class Failing:
    """Daemons that are traced."""

    target: Target
    tracers: dict[str, tuple[subprocess.Popen[str], Path]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    healed: bool = False

    def heal(self) -> None:
        if self.healed:
            return
        for tracer, _ in self.tracers.values():
            tracer.terminate()
            tracer.communicate()
        self.proof()
        for peer in self.tracers:
            if self.target.pids(peer).daemon is None:
                self.target.restart(peer)
        self.healed = True

    def proof(self) -> str | None:
        for peer, (_, record) in self.tracers.items():
            text = record.read_text(errors="replace") if record.exists() else ""
            self.counts[peer] = sum(text.count(mark) for mark in MARKS)
        fired = [f"{peer}: {count}" for peer, count in self.counts.items() if count]
        return f"system calls changed, {', '.join(fired)}" if fired else None

    @property
    def will(self) -> Sequence[Command]:
        return [("kill", str(tracer.pid)) for tracer, _ in self.tracers.values()]


def _fail(target: Target, random: Random, kind: str, lasts_s: float | None, word: str) -> Active:
    active = Failing(target)
    try:
        for peer in chosen(target, word, random):
            record = target.root / f"strace-{peer}-{random.getrandbits(32):08x}"
            active.tracers[peer] = (_trace(target, peer, INJECTIONS[kind], record), record)
    except CannotInject:
        active.heal()
        raise
    return active


def _trace(target: Target, peer: str, call: str, record: Path) -> subprocess.Popen[str]:
    pid = target.pids(peer).daemon
    if pid is None:
        raise CannotInject(f"the daemon of {peer} does not run")
    name = call.partition(":")[0]
    words = ["-f", "-p", str(pid), "-o", str(record), "-e", f"trace={name}", "-e", f"inject={call}"]
    tracer = subprocess.Popen(  # nosec B607  # the one on the PATH
        ["strace", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr is not None
    first = tracer.stderr.readline()
    if "attached" not in first:
        tracer.communicate()
        raise CannotInject(f"strace cannot attach to {peer}: {first.strip()}")
    return tracer


def _lacks(target: Target) -> str | None:
    if shutil.which("strace") is None:
        return "strace is not installed: scripts/install-system-packages"
    return lacks("processes", "files")(target)


FAULTS: tuple[Fault, ...] = (
    Simple(
        "disk",
        "Writes of a running daemon are slow, or fail: no room, read-only, an error of the disk.",
        _fail,
        (one_of(*INJECTIONS), LASTS, VICTIM),
        _lacks,
    ),
)
