"""What workers report, as ``adoption.py`` takes it.

Guarantee: nothing here decides anything. A report is one instant of one worker; a claim is what is
left of it until a leader has a place for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ha_scheduler.engine.stream.keys import Key

FETCHING = "fetching"  # as worker/report.py has it


@dataclass(frozen=True, slots=True)
class Report:
    """What one worker says it has: see ``workers/registration.py``."""

    memory: tuple[tuple[Key, int, str, int], ...] = ()  # key, bytes, type, run (-1: it has none)
    running: tuple[tuple[Any, ...], ...] = ()  # key, and the rest of a ``Claim``
    erred: tuple[tuple[Key, bytes, int], ...] = ()  # key, error, run
    actors: tuple[Key, ...] = ()
    shuffles: tuple[tuple[str, int, bool], ...] = ()
    metadata: tuple[tuple[Key, bytes], ...] = ()
    heard: int = -1  # the highest id of a run that a leader has named to the worker
    fetched: dict[Key, int] = field(default_factory=dict)  # what had been named when it came

    @classmethod
    def from_wire(cls, report: dict[str, Any] | None) -> Report:
        """The report of a registration message."""
        report = report or {}
        names = ("memory", "running", "erred", "actors", "shuffles", "metadata")
        return cls(
            **{name: tuple(report.get(name, ())) for name in names},
            heard=report.get("heard", -1),
            fetched=dict(report.get("fetched", ())),
        )

    def date(self, key: Key, run: int) -> int:
        """The run of a result; or, if it has none, an id above that of the graph of its task."""
        return run if run >= 0 else self.fetched.get(key, self.heard)

    def without(self, keys: set[Key]) -> Report:
        """The report, as if the worker had none of these keys."""

        def rest(entries: Iterable[Any]) -> tuple[Any, ...]:
            return tuple(entry for entry in entries if entry[0] not in keys)

        return replace(
            self,
            memory=rest(self.memory),
            running=rest(self.running),
            erred=rest(self.erred),
            metadata=rest(self.metadata),
            actors=tuple(key for key in self.actors if key not in keys),
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """A task that a worker has been told to compute by an earlier leader and still intends to.

    Or, if ``state`` is ``FETCHING``, that it still computes although it was told to leave it and to
    fetch the result: one word of the leader, and it counts.
    """

    worker: str
    run_id: int
    state: str
    #: Size, type and run of an actor that is there, and of which nobody was told.
    made: tuple[int, str, int] | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A result that a worker holds. ``run``: that it stems from, or an id that is not above it."""

    nbytes: int
    typename: str
    run: int
