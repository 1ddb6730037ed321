"""Peers that run another release: one after the other, as an upgrade of a live cell goes.

The other release is a copy of the installed one with another number. The heal goes back the same
way. ``mixed`` upgrades one peer, ``rolling`` all.

Proof: the release that each peer says of itself.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import SIGTERM
from typing import TYPE_CHECKING

import client_replay
import ha_scheduler
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
from ha_scheduler.protocol.control import Examined, ExamineRequest

if TYPE_CHECKING:
    from chaos.targets.base import Target

BACK_S_MAX = 60.0
ENDED_S_MAX = 30.0
POLL_S = 0.1
RELEASE = re.compile(r'^RELEASE = "([^"]+)"', re.MULTILINE)
SUFFIX = "+chaos"


def other_release(place: Path) -> str:
    """Copy the packages to ``place`` with another release; its number."""
    ignored = shutil.ignore_patterns("__pycache__")
    for package in (ha_scheduler, client_replay):
        assert package.__file__ is not None
        source = Path(package.__file__).parent
        shutil.copytree(source, place / source.name, ignore=ignored, dirs_exist_ok=True)
    file = place / "ha_scheduler" / "protocol" / "__init__.py"
    text = file.read_text()
    found = RELEASE.search(text)
    assert found is not None
    release = f"{found[1]}{SUFFIX}"
    file.write_text(RELEASE.sub(f'RELEASE = "{release}"', text))
    return release


@dataclass
class Upgraded:
    """Peers that run what is in ``place``."""

    target: Target
    place: Path
    release: str
    peers: list[str] = field(default_factory=list)
    before: dict[str, dict[str, str]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    will: Sequence[Command] = ()

    def upgrade(self, peer: str) -> None:
        environment = self.target.environment(peer)
        self.before[peer] = dict(environment)
        paths = [str(self.place), environment.get("PYTHONPATH", "")]
        # Safe: else the directory that the harness runs in would come before all.
        environment.update(PYTHONPATH=os.pathsep.join(filter(None, paths)), PYTHONSAFEPATH="1")
        self.peers.append(peer)
        restart_in_order(self.target, peer)
        control = self.target.control
        assert control is not None
        if control.request(peer, ExamineRequest(), Examined).release == self.release:
            self.seen.append(f"{peer} runs {self.release}")

    def heal(self) -> None:
        while self.peers:
            peer = self.peers.pop()
            environment = self.target.environment(peer)
            environment.clear()
            environment.update(self.before[peer])
            restart_in_order(self.target, peer)

    def proof(self) -> str | None:
        return "; ".join(self.seen) or None


def restart_in_order(target: Target, peer: str) -> None:
    """As an operator does: tell it to end, start it, and wait until the cell is whole."""
    target.signal(peer, "daemon", SIGTERM)
    deadline = time.monotonic() + ENDED_S_MAX
    while target.pids(peer).daemon is not None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    target.restart(peer)
    deadline = time.monotonic() + BACK_S_MAX
    while not target.ready():
        if time.monotonic() > deadline:
            raise CannotInject(f"the cell is not whole {BACK_S_MAX:.0f} s after {peer} was started")
        time.sleep(POLL_S)


def _upgrade(target: Target, random: Random, kind: str, lasts_s: float | None, word: str) -> Active:
    place = target.root / f"release-{random.getrandbits(32):08x}"
    active = Upgraded(target, place, other_release(place))
    peers = target.peers if kind == "rolling" else chosen(target, word, random)[:1]
    for peer in random.sample(peers, len(peers)):
        active.upgrade(peer)
    return active


FAULTS: tuple[Fault, ...] = (
    Simple(
        "upgrade",
        "One peer, or one after the other, is restarted with another release, and back.",
        _upgrade,
        (one_of("rolling", "mixed"), LASTS, VICTIM),
        lacks("processes", "environment", "control"),
    ),
)
