"""The other libraries, each behind the same three calls.

Each is used as its documentation says for state that must outlive a restart: with all the files
that it can write, and with its default timing. None of them encrypts here. ``done`` is called in
any thread, with whether the library acknowledged the proposal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.load_node import KEPT

Done = Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class Place:
    """``addresses``: HOST:PORT of all nodes by name; ``directory``: this node's own.

    ``compact_after``: entries, as ``ENTRIES_MAX`` of peer/consensus/compaction.py; None: as by
    default.
    """

    name: str
    addresses: dict[str, str]
    directory: Path
    compact_after: int | None


class Raft(Protocol):
    def leads(self) -> bool: ...

    def propose(self, key: str, value: bytes, done: Done) -> None:
        """Only while it leads."""

    def applied(self) -> dict[str, int]:
        """How often the replicated state says that each kept entry was applied."""


def pysyncobj(place: Place, **settings: Any) -> Raft:
    """pysyncobj, with journal and dump file."""
    from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, SyncObjConsumer, replicated

    class State(SyncObjConsumer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.counts: dict[str, int] = {}
            self.values: dict[str, bytes] = {}

        @replicated
        def put(self, key: str, value: bytes) -> None:
            self.values[key] = value
            if key.startswith(KEPT):
                self.counts[key] = self.counts.get(key, 0) + 1

    class Node:
        def __init__(self) -> None:
            others = [a for name, a in place.addresses.items() if name != place.name]
            if place.compact_after is not None:
                settings["logCompactionMinEntries"] = place.compact_after
            configuration = SyncObjConf(
                journalFile=str(place.directory / "journal"),
                fullDumpFile=str(place.directory / "dump"),
                **settings,
            )
            self._state = State()
            own = place.addresses[place.name]
            self._raft = SyncObj(own, others, configuration, consumers=[self._state])

        def leads(self) -> bool:
            return bool(self._raft._isLeader())

        def propose(self, key: str, value: bytes, done: Done) -> None:
            ok = FAIL_REASON.SUCCESS
            self._state.put(key, value, callback=lambda _, reason: done(reason == ok))

        def applied(self) -> dict[str, int]:
            return self._state.counts

    return Node()


def tuned_pysyncobj(place: Place) -> Raft:
    """With a shorter tick, and with what its documentation gives for "single request speed"."""
    return pysyncobj(
        place, autoTickPeriod=0.002, appendEntriesUseBatch=False, connectionRetryTime=0.3
    )


def pyraft(place: Place) -> Raft:
    """pyraft. It reads none of its files by itself, so a restarted node begins without state."""
    import pyraft.raft as library
    from pyraft import log
    from pyraft.common import ERROR_APPEND_ENTRY, Future
    from pyraft.worker.worker import Worker

    os.chdir(place.directory)  # its files have no other place
    if place.compact_after is not None:
        library.CONF_LOG_MAX = place.compact_after
        log.CONF_LOG_FILE_MAX = place.compact_after // 10  # as by default

    class Entry(Future):  # type: ignore[misc]
        def __init__(self, command: list[str], done: Done) -> None:
            super().__init__(command)
            self._done = done

        def set(self, value: object) -> None:
            self._done(value is not ERROR_APPEND_ENTRY)

    class Handlers(Worker):  # type: ignore[misc]
        def start(self, node: Any) -> None:
            """Without the port for clients."""

    def put(node: Any, command: list[str]) -> bool:
        _, key, value = command
        node.data[key] = value
        if key.startswith(KEPT):
            counts = node.data.setdefault("counts", {})
            counts[key] = counts.get(key, 0) + 1
        return True

    class Node:
        def __init__(self) -> None:
            # It listens on the port after the one it is given.
            before = {n: f"{a[:-5]}{int(a[-5:]) - 1}" for n, a in place.addresses.items()}
            worker = Handlers(before[place.name])
            worker.handler["put"] = [put, "we", 2, 2]
            self._raft = library.RaftNode(place.name, before[place.name], before, worker=worker)
            self._raft.start()

        def leads(self) -> bool:
            return bool(self._raft.state == "l")

        def propose(self, key: str, value: bytes, done: Done) -> None:
            text = value.hex()[: len(value)]  # it takes text only
            self._raft.q_entry.put(Entry(["put", key, text], done))

        def applied(self) -> dict[str, int]:
            return dict(self._raft.data.get("counts", {}))

    return Node()


LIBRARIES: dict[str, Callable[[Place], Raft]] = {
    "pysyncobj": pysyncobj,
    "pysyncobj-tuned": tuned_pysyncobj,
    "pyraft": pyraft,
}
