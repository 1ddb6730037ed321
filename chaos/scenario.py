"""What a run is to be: workload, faults, target, seed, times and limits. As TOML, in and out.

Guarantee: a scenario that was read can be run: names, numbers and their relations have been
checked, and what is wrong is said in one sentence before anything starts. Equal scenarios give
equal schedules and equal workloads; nothing else decides them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from chaos.faults.base import parse
from ha_scheduler.errors import OperatorError

Seconds = Annotated[float, Meta(ge=0, le=7 * 24 * 3600)]
Positive = Annotated[float, Meta(gt=0, le=7 * 24 * 3600)]


class BadScenario(OperatorError):
    """Operator: the scenario cannot be run as it is written; the text says why."""


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run.

    After ``baseline_s`` of undisturbed work faults follow each other for ``time_limit_s``, every
    ``interval_s`` or so, and each is healed after ``lasts_s`` unless its arguments say otherwise.
    After that the cell has ``settle_s`` to be whole, and each operation ``deadline_s`` to end.
    """

    workload: str = "independent"
    faults: tuple[str, ...] = ()
    target: str = "loopback"
    seed: int = 0
    peers: Annotated[int, Meta(ge=1, le=7)] = 3
    workers: Annotated[int, Meta(ge=1, le=64)] = 2
    clients: Annotated[int, Meta(ge=1, le=200)] = 1
    rate: Annotated[float, Meta(gt=0, le=10_000)] = 20.0  # operations per second and client
    baseline_s: Seconds = 3.0
    time_limit_s: Positive = 20.0
    interval_s: Positive = 6.0  # from one fault to the next, give or take a quarter
    lasts_s: Positive = 2.0
    settle_s: Positive = 60.0
    deadline_s: Positive = 60.0
    floor: Annotated[int, Meta(ge=0)] | None = None  # operations in the baseline; of the workload
    recovery_s: Positive = 15.0  # from a fault's end or the next leader's need to the first answer
    controls: tuple[str, ...] = ()  # safeguards taken away: the run must be found to be wrong
    options: tuple[str, ...] = ()  # further words for each peer's command line

    def __post_init__(self) -> None:
        for text in self.faults:
            parse(text)
        if self.peers % 2 == 0:
            raise ValueError(f"a cell has an odd number of peers, not {self.peers}")

    @property
    def title(self) -> str:
        """Such as ``independent under kill:leader``."""
        return f"{self.workload} under {' + '.join(self.faults) or 'nothing'}"

    @property
    def slug(self) -> str:
        """The title as a name of a directory."""
        words = f"{self.workload}-{'+'.join(self.faults) or 'none'}-{self.target}"
        return "".join(letter if letter.isalnum() or letter in "-+." else "-" for letter in words)


def from_mapping(values: dict[str, Any]) -> Scenario:
    """Raises ``BadScenario``."""
    try:
        return msgspec.convert(values, Scenario)
    except msgspec.ValidationError as error:
        raise BadScenario(f"The scenario is wrong: {str(error).rstrip('.')}.") from error


def changed(scenario: Scenario, **values: Any) -> Scenario:
    """With other values, checked as a whole. Raises ``BadScenario``."""
    return from_mapping({**msgspec.to_builtins(scenario), **values})


def read(path: Path) -> Scenario:
    """Raises ``BadScenario``."""
    return from_mapping(read_toml(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Raises ``BadScenario``."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BadScenario(f"{path} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise BadScenario(f"{path} is no TOML: {error}.") from error


def to_toml(scenario: Scenario) -> str:
    """What ``read`` reads."""
    values: dict[str, Any] = msgspec.to_builtins(scenario)
    given = {name: value for name, value in values.items() if value is not None}
    return "".join(f"{name} = {_toml(value)}\n" for name, value in given.items())


def command(scenario: Scenario) -> str:
    """The line that runs it again."""
    words = ["dask-ha-chaos", "run"]
    for name, value in msgspec.to_builtins(scenario).items():
        if value == getattr(_DEFAULT, name) and name != "seed":
            continue
        option = f"--{name.removesuffix('_s').replace('_', '-')}"
        if isinstance(value, Sequence) and not isinstance(value, str):
            words += [option, ",".join(value)] if value else []
        else:
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    return " ".join(words)


def _toml(value: Any) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)


_DEFAULT = Scenario()
