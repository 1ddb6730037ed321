"""A client that outlives its leaders: it keeps entries in flight, and knows what was acknowledged.

Each acknowledgement is one line of a file, written by the leader's process before the next entry.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable

from benchmarks.load_cell import NAMES, LoadCell
from benchmarks.load_node import KEPT

STALL_S = 30.0
POLL_S = 0.05
SETTLE_S = 2.0
CATCH_UP_S = 10.0
ORDER = {"size": 200, "outstanding": 64, "seconds": 1e9, "names": 1 << 40}


class Client:
    """Whoever leads ``cell`` gets its load, from the first ``wait`` on."""

    def __init__(self, cell: LoadCell) -> None:
        self._cell = cell
        self._path = cell.directory / "acknowledged"
        self._path.touch()
        self._file = self._path.open()
        self._rest = ""  # of a line that is being written
        self._numbers = itertools.count()
        self._served = 0  # activations of leaders
        self._stopped = False
        self._answers: list[socket.socket] = []  # of loads that never end
        self.acknowledged: dict[str, float] = {}  # when, by key
        self._first: dict[str, float] = {}  # of each load that got one

    def wait(self, until: Callable[[], object], seconds: float = STALL_S) -> bool:
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                return False
            with contextlib.suppress(TimeoutError):
                self._cell.event(lambda e: e["event"] == "activated", POLL_S)
            self._serve()
            self._read()
        return True

    def commits(self, count: int) -> bool:
        """Whether so many more are acknowledged soon, also after a ``stop``."""
        self._stopped = False
        wanted = len(self.acknowledged) + count
        return self.wait(lambda: len(self.acknowledged) >= wanted)

    def gap(self, since: float) -> float | None:
        """Seconds from ``since`` until another leader acknowledges something."""
        before = len(self._first)
        if not self.wait(lambda: len(self._first) > before):
            return None
        return list(self._first.values())[before] - since

    def caught_up(self, name: str) -> bool:
        """Whether the peer ``name`` soon has what was acknowledged last."""
        self._read()
        last = next(reversed(self.acknowledged))

        def has() -> bool:
            with contextlib.suppress(OSError, ValueError):
                return bool(self._cell.ask(name, op="has", key=last))
            return False

        return self.wait(has, CATCH_UP_S)

    def stop(self) -> None:
        """Nothing is sent from now on, and what was sent is acknowledged or lost."""
        self._stopped = True
        with contextlib.suppress(OSError):
            self._cell.stop_load()
        self.wait(lambda: False, SETTLE_S)

    def kept(self) -> dict[str, dict[str, int]]:
        """How often each peer that answers has applied each entry."""
        found = {}
        for name in NAMES:
            with contextlib.suppress(OSError, ValueError):
                found[name] = dict(self._cell.ask(name, op="applied"))
        return found

    def _serve(self) -> None:
        if self._stopped or self._served == self._cell.activations:
            return
        self._served = self._cell.activations
        space = f"{KEPT}{next(self._numbers)}-"
        with contextlib.suppress(OSError):  # it is dead already
            load = self._cell.begin_load(space=space, acknowledged=str(self._path), **ORDER)
            self._answers.append(load)

    def _read(self) -> None:
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        for line in lines:
            key, at = line.split()
            self.acknowledged[key] = float(at)
            self._first.setdefault(key.partition("-")[0], float(at))
