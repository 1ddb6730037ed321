"""Deaths and delays at named moments of the product, before and after each durable step.

A token names the moment (``ha_scheduler/failpoints.py``); the first process that comes there takes
it, and dies or sleeps. The heal takes back a token that nobody took, and starts peers again that
died.

Proof: the token is gone, and it was not the heal that took it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from chaos.faults.base import Active, Argument, Command, Fault, Simple, duration, lacks

if TYPE_CHECKING:
    from chaos.targets.base import Target

#: Those of daemons; those of engines are ``OPERATION.MOMENT``, as ``graph.appended``.
DURABLE_STEPS = {
    "store.arrived": "a batch (entries, a vote, applied records) is about to be written",
    "store.durable": "it is on the disk, and nobody has been told",
    "snapshot.staged": "a ledger that the leader sent is on the disk, and not in use",
}
_MOMENT = re.compile(r"[a-z][a-z_-]*\.[a-z-]+")


def _moment(word: str) -> str | None:
    return word if _MOMENT.fullmatch(word) else None


MOMENT = Argument("MOMENT", _moment, "store.durable")


@dataclass
class Armed:
    """A token that waits to be taken."""

    target: Target
    token: Path
    taken: bool = False
    healed: bool = False

    def heal(self) -> None:
        if self.healed:
            return
        self.proof()
        self.token.unlink(missing_ok=True)
        for peer in self.target.peers:
            if self.target.pids(peer).daemon is None:
                self.target.restart(peer)
        self.healed = True

    def proof(self) -> str | None:
        if not self.healed:
            self.taken = not self.token.exists()
        return f"{self.token.name} was reached" if self.taken else None

    @property
    def will(self) -> Sequence[Command]:
        return [["rm", "-f", str(self.token)]]


def _arm(target: Target, random: Random, sleep_s: float, moment: str) -> Active:
    directory: Path = _failpoints(target)
    token = directory / moment
    token.write_text(f"{sleep_s:g}" if sleep_s else "")
    return Armed(target, token)


def _failpoints(target: Any) -> Path:
    directory: Path = target.failpoints
    return directory


FAULTS: tuple[Fault, ...] = (
    Simple(
        "failpoint",
        "The next process at a named moment dies there, or sleeps: store.durable, graph.appended.",
        _arm,
        (duration("SLEEP", 0.0), MOMENT),
        lacks("failpoints"),
    ),
)
