"""Visitors: clients that ask for what is poison, giant or not theirs, or that die as they ask.

Each is a process of its own where clients are (``visitor.py``); what it was told is in the history
of the run, with what it had to be told.

Proof: the visitor's own events, after the fault's end.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import msgspec

from chaos import history
from chaos.faults.base import (
    LASTS,
    Active,
    Argument,
    CannotInject,
    Command,
    Fault,
    Simple,
    lacks,
    number,
    one_of,
)
from chaos.faults.visitor import BEGUN, VISITS, Settings
from chaos.record import CLIENTS

if TYPE_CHECKING:
    from chaos.targets.base import Target

BEGUN_S_MAX = 30.0
ENDED_S_MAX = 90.0
MID_SUBMIT_S_MAX = 0.5
GIANT = 4_000
POLL_S = 0.05


@dataclass
class Visit:
    """One visitor."""

    process: subprocess.Popen[bytes]
    path: Path
    killed: bool = False
    will: Sequence[Command] = ()

    def heal(self) -> None:
        """Wait until it has gone; its events say what it was told."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            with contextlib.suppress(OSError):
                self.process.stdin.write(b"end\n")
                self.process.stdin.close()
        try:
            self.process.wait(ENDED_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def proof(self) -> str | None:
        events = history.read([self.path]) if self.path.exists() else []
        if self.killed:
            begun = any(event.f == BEGUN for event in events)
            return "killed while it submitted" if begun else None
        for event in events:
            if event.type == "ok":
                return f"{event.f} {event.key}: {event.value} {event.error[:200]}"
            if event.f == "lied":
                return f"{event.value} calls with what is wrong"
        return None


def start(target: Target, random: Random, kind: str, count: int = 0, directory: str = "") -> Visit:
    """Raises ``CannotInject`` if the target's run has no place for its events."""
    process = f"visitor-{random.getrandbits(32):08x}"
    place = target.root.parent / CLIENTS
    place.mkdir(exist_ok=True)
    path = place / f"{process}.ndjson"
    control = target.control
    assert control is not None
    ports = tuple((p.host, n) for p in control.cell.peers for n in (p.peer_port, p.dask_port))
    settings = Settings(
        kind, target.address, str(path), process, count, directory, ports, control.identity
    )
    words = ["-m", "chaos.faults.visitor", msgspec.json.encode(settings).decode()]
    return Visit(target.spawn_client(words, path.with_suffix(".log")), path)


def _visit(target: Target, random: Random, kind: str, count: int) -> Active:
    return start(target, random, kind, count if kind == "giant" else 0)


def _kill_client(target: Target, random: Random, count: int) -> Active:
    """``kill -9`` in the midst of a submit."""
    active = start(target, random, "giant", count)
    _await_begin(active)
    time.sleep(random.uniform(0, MID_SUBMIT_S_MAX))
    active.process.kill()
    active.process.wait()
    active.killed = True
    return active


def _await_begin(active: Visit) -> None:
    deadline = time.monotonic() + BEGUN_S_MAX
    while not (active.path.exists() and f'"{BEGUN}"' in active.path.read_text()):
        if active.process.poll() is not None or time.monotonic() > deadline:
            active.heal()
            raise CannotInject("the client did not come as far as its submit")
        time.sleep(POLL_S)


def certificates(target: Target) -> Path:
    """Where the target's certificates are. Raises ``CannotInject``."""
    for name in ("tls", "certificates"):
        if (target.root / name / "ca.pem").exists():
            return target.root / name
    raise CannotInject("the target has no certificates here")


def _lie(target: Target, random: Random, lasts_s: float | None) -> Active:
    """With the certificate of nobody, of a client and of an engine."""
    own = certificates(target)
    directory = target.root / f"lies-{random.getrandbits(32):08x}"
    directory.mkdir()
    for name in ("ca.pem", "client.pem", "client-key.pem", "engine-a.pem", "engine-a-key.pem"):
        shutil.copy(own / name, directory / name)
    active = start(target, random, "malformed", directory=str(directory))
    _await_begin(active)
    return active


COUNT: Argument = number("COUNT", GIANT)
_CLIENTS: Callable[[Target], str | None] = lacks("cell", "processes")

FAULTS: tuple[Fault, ...] = (
    Simple(
        "visit",
        "A client comes with a task or a graph that kills, that nobody can read, or a giant one.",
        _visit,
        (one_of(*VISITS), COUNT),
        _CLIENTS,
    ),
    Simple(
        "kill-client",
        "A client is killed in the midst of the submit of a large graph.",
        _kill_client,
        (COUNT,),
        _CLIENTS,
    ),
    Simple(
        "malformed",
        "Every port is called with messages that are wrong, by nobody, a client and an engine.",
        _lie,
        (LASTS,),
        lacks("cell", "files"),
    ),
)
