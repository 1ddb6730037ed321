"""The directory of a run: what is in it, written as it happens and read as a whole.

Guarantee: everything that a verdict is made from is in these files, so that an old run can be
judged again by today's checkers. Times are CLOCK_MONOTONIC of the machine of the harness; logs of
peers have wall clock, and ``Facts`` has both of one moment.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from chaos import history, scenario
from chaos.history import Event, Operation
from chaos.scenario import Scenario
from ha_scheduler.errors import OperatorError

SCENARIO, FACTS, HISTORY = "scenario.toml", "facts.json", "history.ndjson"
FAULTS, STATUS, LEDGERS, FAILOVERS = (
    "faults.ndjson",
    "status.ndjson",
    "ledgers.json",
    "failovers.json",
)
SUMMARY, LOGS, CLIENTS, CELL, FILES = "summary.json", "logs", "clients", "cell", "files"
REPRODUCE = "REPRODUCE"

_T = TypeVar("_T")


class Fired(msgspec.Struct, frozen=True):
    """An injection as it went. ``proof``: how one can tell that it fired."""

    number: int
    fault: str
    at: float
    healed: float | None = None
    proof: str | None = None
    error: str = ""  # why it could not be made or healed
    made: float | None = None  # when the injection was over, which began ``at``


class Sample(msgspec.Struct, frozen=True):
    """What each peer that answered said of itself at one moment, and what its processes take."""

    t: float
    peers: dict[str, dict[str, Any]]
    processes: dict[str, dict[str, int]] = {}  # now and then


class Ledger(msgspec.Struct, frozen=True):
    """The log of a peer after its end. ``digests`` of the entries from ``first`` on."""

    first: int
    committed: int
    digests: list[str]
    terms: list[tuple[int, int]]  # first index of each
    error: str = ""


class Facts(msgspec.Struct, frozen=True):
    """Of the run as a whole. ``phases``: when each began. ``began``: one moment by two clocks."""

    began: float
    began_wall: float
    phases: dict[str, float]
    peers: tuple[str, ...]
    workers: tuple[str, ...]
    abilities: tuple[str, ...]
    versions: dict[str, str]
    host: dict[str, Any]
    clients: dict[str, int | None]  # the exit status of each
    settled_s: float | None = None  # after the last heal all was whole; None: it was not
    trouble: str = ""  # the harness could not do what it was to do
    overdue: tuple[str, ...] = ()  # clients that did not end when they were told to


@dataclass(frozen=True)
class Record:
    """A run that is over."""

    directory: Path

    @functools.cached_property
    def scenario(self) -> Scenario:
        return scenario.read(self.directory / SCENARIO)

    @functools.cached_property
    def facts(self) -> Facts:
        return msgspec.json.decode((self.directory / FACTS).read_bytes(), type=Facts)

    @functools.cached_property
    def events(self) -> list[Event]:
        return history.read([self.directory / HISTORY])

    @functools.cached_property
    def operations(self) -> list[Operation]:
        return list(history.operations(self.events))

    @functools.cached_property
    def faults(self) -> list[Fired]:
        return list(_lines(self.directory / FAULTS, Fired))

    @functools.cached_property
    def samples(self) -> list[Sample]:
        return list(_lines(self.directory / STATUS, Sample))

    @functools.cached_property
    def ledgers(self) -> Mapping[str, Ledger]:
        path = self.directory / LEDGERS
        if not path.exists():
            return {}
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Ledger])

    @functools.cached_property
    def failovers(self) -> list[dict[str, Any]]:
        path = self.directory / FAILOVERS
        return (
            msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
            if path.exists()
            else []
        )

    @functools.cached_property
    def executions(self) -> Sequence[tuple[str, int, float]]:
        """Key, process and wall clock of each execution that was counted."""
        path = self.directory / FILES / "executions"
        lines = path.read_text().splitlines() if path.exists() else []
        words = (line.split("\t") for line in lines)
        return [(key, int(pid), float(at)) for key, pid, at in words]

    @property
    def logs(self) -> Mapping[str, Path]:
        """By the name of the file: ``peer-a``, ``worker-0``."""
        return {path.stem: path for path in sorted((self.directory / LOGS).glob("*.log"))}

    @property
    def baseline(self) -> tuple[float, float]:
        """From when to when nothing disturbed."""
        phases = self.facts.phases
        return phases.get("baseline", 0.0), phases.get("faults", phases.get("heal", 0.0))


def open_record(directory: Path) -> Record:
    """Raises ``OperatorError`` if there is no run."""
    for name in (SCENARIO, FACTS, HISTORY):
        if not (directory / name).exists():
            raise OperatorError(f"{directory} holds no finished run: {name} is missing.")
    return Record(directory)


def append(path: Path, item: msgspec.Struct) -> None:
    with path.open("ab") as file:
        file.write(msgspec.json.encode(item) + b"\n")


def write_json(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def _lines(path: Path, kind: type[_T]) -> Iterator[_T]:
    if path.exists():
        for line in path.read_bytes().splitlines():
            yield msgspec.json.decode(line, type=kind)
