"""One node of another Raft in a process of its own: ``benchmarks.rafts.node <settings as JSON>``.

It takes the orders that a load engine takes, and tells the same events.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import selectors
import socket
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.load_cell import LoadCell
from benchmarks.load_node import MARK, Load, LoadNode, OnCommit
from benchmarks.rafts.libraries import LIBRARIES, Place

LEADS_EVERY_S = 0.01  # how often the library is asked whether it leads


class LibraryCell(LoadCell):
    """As ``LoadCell``, of nodes of another library."""

    def __init__(self, under: Path | None, library: str, limits: dict[str, int]) -> None:
        super().__init__(under, limits)
        self._library = library

    def command(self, name: str) -> list[str]:
        settings = {
            "library": self._library,
            "name": name,
            "addresses": {p.name: f"{p.host}:{p.peer_port}" for p in self.cell.peers},
            "directory": str(self.directory),
            "compact_after": self._limits.get("ENTRIES_MAX"),
        }
        return ["benchmarks.rafts.node", json.dumps(settings)]

    def mark(self, peers: set[str] | None = None) -> dict[str, int]:
        """None: a node that is sent a snapshot is told of no entry in it."""
        return {}

    def load(self, **order: Any) -> dict[str, Any]:
        result = self.finish_load(self.begin_load(**order))
        return {**result, "leader_cpu": 0.0, "follower_cpu": 0.0}


class LibraryNode(LoadNode):
    """The library has threads of its own; what they report is carried out in this one."""

    def __init__(self, library: str, place: Place) -> None:
        super().__init__()
        self._calls: deque[Callable[[], None]] = deque()
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._carry_out)
        self._leads = False
        self._introduce(place.name, place.directory.parent)
        self._raft = LIBRARIES[library](place)
        self._tell("caught_up")

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select(LEADS_EVERY_S):
                key.data(key.fileobj)
            self._look()

    def _later(self, call: Callable[..., None], *arguments: Any) -> None:
        self._calls.append(functools.partial(call, *arguments))
        try:
            self._wake.send(b".")
        except BlockingIOError:
            pass  # it is about to be woken

    def _carry_out(self, woken: socket.socket) -> None:
        woken.recv(65536)
        while self._calls:
            self._calls.popleft()()
        if self._load is not None:
            self._fill()

    def _look(self) -> None:
        leads = self._raft.leads()
        if leads and not self._leads:
            self._tell("activated")
            self._put(MARK, f"-{os.getpid()}", b"", lambda: self._tell("first_commit"))
        elif self._leads and not leads and self._load is not None:
            self._load.answer.close()
            self._load = None
        self._leads = leads

    def _put(self, space: str, name: str, value: bytes, on_commit: OnCommit) -> None:
        load = self._load

        def done(acknowledged: bool) -> None:
            if acknowledged:
                self._later(on_commit)
            elif load is not None:
                self._later(Load.dropped, load)

        self._raft.propose(space + name, value, done)

    def _kept(self) -> dict[str, int]:
        return self._raft.applied()


def main() -> None:
    given = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    library, directory = given.pop("library"), Path(given.pop("directory")) / given["name"]
    directory.mkdir(exist_ok=True)
    LibraryNode(library, Place(directory=directory, **given)).run()


if __name__ == "__main__":
    main()
