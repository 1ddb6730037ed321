"""What workers report, as ``adoption.py`` takes it.

Guarantee: nothing here decides anything. A report is one instant of one worker; claims and orphans
are what is left of reports until a leader has a place for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ha_scheduler.engine.keys import Key

FETCHING = "fetching"  # as worker/report.py has it


@dataclass(frozen=True, slots=True)
class Report:
    """What one worker says it has: see the protocol of registration in ``workers.py``."""

    memory: tuple[tuple[Key, int, str], ...] = ()
    running: tuple[tuple[Any, ...], ...] = ()  # key, and the rest of a ``Claim``
    erred: tuple[tuple[Any, ...], ...] = ()
    actors: tuple[Key, ...] = ()
    shuffles: tuple[tuple[str, int, bool], ...] = ()
    metadata: tuple[tuple[Key, bytes], ...] = ()

    @classmethod
    def from_wire(cls, report: dict[str, Any] | None) -> Report:
        """The report of a registration message."""
        report = report or {}
        names = ("memory", "running", "erred", "actors", "shuffles", "metadata")
        return cls(**{name: tuple(report.get(name, ())) for name in names})


@dataclass(frozen=True, slots=True)
class Claim:
    """A task that a worker has been told to compute by an earlier leader and still intends to.

    Or, if ``state`` is ``FETCHING``, that it still computes although it was told to leave it and to
    fetch the result: one word of the leader, and it counts.
    """

    worker: str
    run_id: int
    state: str
    made: tuple[int, str] | None = None  # size and type of an actor that is there, and untold of


@dataclass(slots=True)
class Orphans:
    """What workers hold or run of graphs that the leader does not know (yet)."""

    memory: dict[Key, dict[str, tuple[int, str]]] = field(default_factory=dict)
    running: dict[Key, Claim] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.memory) + len(self.running)

    def owners(self) -> set[str]:
        """The workers that hold or run any of them."""
        holders = {address for held in self.memory.values() for address in held}
        return holders | {claim.worker for claim in self.running.values()}

    def forget_worker(self, address: str) -> None:
        """The worker is gone, and with it what it held."""
        for key in [k for k, claim in self.running.items() if claim.worker == address]:
            del self.running[key]
        for key in [k for k, holders in self.memory.items() if address in holders]:
            del self.memory[key][address]
            if not self.memory[key]:
                del self.memory[key]
