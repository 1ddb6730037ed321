"""What clients did and saw: one line of JSON for each event, as it happens.

An operation begins with ``invoke`` and ends with ``ok``, ``fail`` (it did not happen) or ``info``
(nobody knows whether it happened, as when its process was killed); one that never ends counts as
``info``. ``note`` belongs to no operation.

Guarantee: a line is with the kernel before the call returns, so that ``kill -9`` of the writer
loses none; a line that was cut by a full disk is left out by ``read``. Times are CLOCK_MONOTONIC of
one machine: those of several processes can be compared.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

Type = Literal["invoke", "ok", "fail", "info", "note"]


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """``f`` is what is done (``submit``, ``put``), ``key`` to what, ``value`` what was given or
    got; ``expected``: what a right answer is, where that is known before.
    """

    t: float
    process: str
    op: int
    type: Type
    f: str
    key: str = ""
    value: Any = None
    expected: Any = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """An ``invoke`` with what ended it. ``end`` is None while nobody knows."""

    process: str
    f: str
    key: str
    start: float
    end: float | None
    type: Type
    given: Any
    got: Any
    expected: Any
    error: str

    @property
    def latency_s(self) -> float | None:
        return None if self.end is None else self.end - self.start


class Writer:
    """The events of one process; any of its threads writes."""

    def __init__(
        self, path: Path, process: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._process = process
        self._clock = clock
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def invoke(self, f: str, key: str = "", value: Any = None, expected: Any = None) -> int:
        """Returns the number of the operation."""
        number = next(self._numbers)
        self._write(number, "invoke", f, key, value, expected)
        return number

    def end(
        self, op: int, type: Type, f: str, key: str = "", value: Any = None, error: str = ""
    ) -> None:
        self._write(op, type, f, key, value, error=error)

    def note(self, f: str, value: Any = None) -> None:
        self._write(0, "note", f, value=value)

    def _write(
        self,
        op: int,
        type: Type,
        f: str,
        key: str = "",
        value: Any = None,
        expected: Any = None,
        error: str = "",
    ) -> None:
        with self._lock:  # the clock too: lines are in the order of their times
            event = Event(self._clock(), self._process, op, type, f, key, value, expected, error)
            os.write(self._file, msgspec.json.encode(event) + b"\n")


def read(paths: Iterable[Path]) -> list[Event]:
    """All events of these files, in the order of time."""
    decode = msgspec.json.Decoder(Event).decode
    found = []
    for path in paths:
        for line in path.read_bytes().splitlines():
            try:
                found.append(decode(line))
            except msgspec.DecodeError:
                continue  # cut short: see above
    return sorted(found, key=lambda event: event.t)


def write_all(path: Path, events: Iterable[Event]) -> None:
    """One file of all of them."""
    path.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))


def operations(events: Iterable[Event]) -> Iterator[Operation]:
    """The operations in the order of their beginning. Raises ``ValueError`` for an end of none."""
    begun: dict[tuple[str, int], Event] = {}
    ended: dict[tuple[str, int], Event] = {}
    for event in events:
        number = (event.process, event.op)
        if event.type == "note":
            continue
        if event.type == "invoke":
            begun[number] = event
        elif number not in begun:
            raise ValueError(f"operation {event.op} of {event.process} ends and never began")
        else:
            ended.setdefault(number, event)
    for number, event in begun.items():
        last = ended.get(number)
        known = last is not None and last.type != "info"
        yield Operation(
            event.process,
            event.f,
            event.key,
            event.t,
            last.t if last is not None and known else None,
            last.type if last is not None else "info",
            event.value,
            last.value if last is not None else None,
            event.expected,
            last.error if last is not None else "never ended",
        )
