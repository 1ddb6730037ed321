"""What workers report (``protocol/worker.py``), as ``adoption.py`` reads it. Decides nothing.

A report is one instant of one worker; a claim is a running task in it that has no place yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from ha_scheduler.engine.exposures import digest
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.protocol.engine import Exposure
from ha_scheduler.protocol.worker import Report


def date(report: Report, key: Key, run: int) -> int:
    """The run of a result; for one without, an id above that of its task's graph."""
    return run if run >= 0 else report.fetched.get(key, report.heard)


def exposure_of_report(worker_id: str, address: str) -> Exposure:
    """A new leader is exposed to what a process says of itself, in whichever words."""
    return Exposure(digest([b"report", worker_id.encode()]), "report of worker", address[:256])


def without(report: Report, keys: set[Key]) -> Report:
    def rest(entries: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(entry for entry in entries if entry[0] not in keys)

    return replace(
        report,
        memory=rest(report.memory),
        running=rest(report.running),
        erred=rest(report.erred),
        metadata=rest(report.metadata),
        actors=tuple(key for key in report.actors if key not in keys),
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """A task that a worker computes for an earlier leader.

    ``FETCHING``: it was told to fetch the result instead, and computes it still.
    """

    worker: str
    run_id: int
    state: str
    #: Size, type and run of an actor that is there, and of which nobody was told.
    made: tuple[int, str, int] | None = None


def claims(worker: str, report: Report) -> Iterator[tuple[Key, Claim]]:
    """The tasks that the worker computes."""
    rows: tuple[tuple[Any, ...], ...] = report.running
    yield from ((key, Claim(worker, *claim)) for key, *claim in rows)


@dataclass(frozen=True, slots=True)
class Held:
    """A worker's result. ``run``: its own, or an id that is not above it."""

    nbytes: int
    typename: str
    run: int
