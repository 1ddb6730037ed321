"""Workers that die or stand still, one or all, with or without their nannies.

A worker alone is started again by its nanny; a nanny takes its worker with it, and the heal starts
both.

Proof: the very process is gone, or was seen stopped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import TYPE_CHECKING

import psutil

from chaos.faults.base import (
    LASTS,
    Active,
    CannotInject,
    Command,
    Fault,
    Simple,
    lacks,
    one_of,
)
from chaos.faults.process import is_gone

if TYPE_CHECKING:
    from chaos.targets.base import Part, Target

SEEN_S_MAX = 2.0
POLL_S = 0.005
WHO = one_of("one", "half", "all")
#: ``worker`` is the process that runs tasks, ``nanny`` the one that keeps it.
PART = one_of("worker", "nanny")


@dataclass
class Struck:
    """Workers that were killed or stopped."""

    target: Target
    workers: Sequence[str]
    part: Part
    stopped: bool
    processes: list[psutil.Process] = field(default_factory=list)
    seen: str | None = None
    healed: bool = False
    will: Sequence[Command] = ()

    def heal(self) -> None:
        if self.healed:
            return
        self.healed = True
        for worker in self.workers:
            if self.stopped:
                self.target.signal_worker(worker, self.part, SIGCONT)
            elif self.target.worker_pids(worker).daemon is None:
                self.target.restart_worker(worker)

    def proof(self) -> str | None:
        return self.seen

    def look(self) -> None:
        """Until the signal has taken effect."""
        deadline = time.monotonic() + SEEN_S_MAX
        while not (done := all(map(self._is_struck, self.processes))):
            if time.monotonic() > deadline:
                return
            time.sleep(POLL_S)
        if done:
            pids = ", ".join(str(process.pid) for process in self.processes)
            self.seen = f"{'stopped' if self.stopped else 'ended'}: {pids}"

    def _is_struck(self, process: psutil.Process) -> bool:
        if not self.stopped:
            return is_gone(process)
        with contextlib.suppress(psutil.NoSuchProcess):
            return process.status() == psutil.STATUS_STOPPED
        return False


def _strike(target: Target, random: Random, who: str, part: str, *, stop: bool) -> Active:
    count = {"one": 1, "half": (len(target.workers) + 1) // 2, "all": len(target.workers)}[who]
    workers = random.sample(target.workers, count)
    active = Struck(target, workers, "engine" if part == "worker" else "both", stop)
    for worker in workers:
        pids = target.worker_pids(worker)
        wanted = [pids.engine] if part == "worker" else [pids.daemon, pids.engine]
        with contextlib.suppress(psutil.NoSuchProcess):
            active.processes += [psutil.Process(pid) for pid in wanted if pid is not None]
    if not active.processes:
        raise CannotInject(f"of {', '.join(workers)} none runs")
    for worker in workers:
        target.signal_worker(worker, active.part, SIGSTOP if stop else SIGKILL)
    active.will = [("kill", "-CONT", str(p.pid)) for p in active.processes] if stop else ()
    active.look()
    return active


def _kill(target: Target, random: Random, who: str, part: str) -> Active:
    return _strike(target, random, who, part, stop=False)


def _pause(target: Target, random: Random, who: str, part: str, lasts_s: float | None) -> Active:
    return _strike(target, random, who, part, stop=True)


FAULTS: tuple[Fault, ...] = (
    Simple(
        "kill-worker",
        "SIGKILL to one worker, half of them or all, or to their nannies.",
        _kill,
        (WHO, PART),
        lacks("workers"),
    ),
    Simple(
        "pause-worker",
        "SIGSTOP to workers, or to their nannies as well.",
        _pause,
        (WHO, PART, LASTS),
        lacks("workers"),
    ),
)
