"""Upstream's Scheduler with an event stream, and what it asks of the whole scheduler.

``StreamScheduler`` derives from upstream's Scheduler, so whoever is given one has upstream's state
and methods with their types. What the stream and the takeover need of parts above them is declared
here and defined there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import distributed.scheduler as upstream
from distributed.scheduler import TaskState
from msgspec.structs import replace

from ha_scheduler.engine import compat
from ha_scheduler.engine.exposures import Exposures, short_name
from ha_scheduler.engine.fencing import LeaseLike, Unfenced
from ha_scheduler.engine.holders import ANYBODY, Holder
from ha_scheduler.engine.metrics import Counts
from ha_scheduler.engine.step import OTHER, Step
from ha_scheduler.engine.stream.graphs import GraphTable
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.recorder import OnCommit, Recorder
from ha_scheduler.engine.stream.runs import RunIds
from ha_scheduler.engine.stream.tables import ReplicatedTables
from ha_scheduler.errors import SetAside
from ha_scheduler.ledger.records import Record
from ha_scheduler.ledger.sessions import Sessions
from ha_scheduler.protocol.client import Welcome
from ha_scheduler.protocol.engine import Exposure
from ha_scheduler.security.identity import Identity

OnMark = Callable[[str, dict[str, Any]], None]


class StreamScheduler(upstream.Scheduler):
    """State of several parts, set before upstream makes its extensions."""

    actors_created: dict[Key, str]  # of ``Actors``: where each actor is

    def __init__(
        self,
        *,
        cell: Welcome | None = None,
        lease: LeaseLike | None = None,
        exposures: Exposures | None = None,
        **kwargs: Any,
    ) -> None:
        compat.install()
        self.term = 0
        self.cell = cell or Welcome(0, "", "")
        self.counts = Counts()
        self.lease = lease or Unfenced()
        self.exposures = exposures or Exposures()
        self.recorder: Recorder | None = None  # None: this engine follows
        self.graphs = GraphTable()
        self.sessions = Sessions()
        self.session_of: dict[str, str] = {}  # by client
        self.holders: dict[str, Holder] = {}  # by client, of those with a subject
        self.worker_callers: dict[str, Identity] = {}  # by address: who registered there
        self.scattered: set[Key] = set()
        self.retried: set[Key] = set()  # whose errors were withdrawn, and that have none since
        self.tables = ReplicatedTables(self.exposures)
        self.runs = RunIds(self.graphs)
        self.step = OTHER
        self.mark: OnMark = lambda phase, detail: None  # notes a phase of the takeover
        super().__init__(**kwargs)

    @contextmanager
    def during(self, step: Step) -> Iterator[None]:
        """``step`` is that of now, until the context ends or the step does."""
        before, self.step = self.step, step
        try:
            yield
        finally:
            self.step = before

    def record(self, record: Record, on_commit: OnCommit | None = None) -> None:
        """Append to the event stream, if this engine leads."""
        if self.recorder is not None:
            self.recorder.append(record, on_commit)

    def _is_behind(self, term: int, cell_id: str) -> bool:
        """Whether a worker or client has seen a later leader, of this cell: terms of another one
        say nothing here."""
        return term > self.term and cell_id in ("", self.cell.cell_id)

    def _is_foreign(self, cell_id: str) -> bool:
        """Whether what somebody of that cell holds is unknown here."""
        known = ("", self.cell.cell_id, self.cell.predecessor)
        return bool(self.cell.cell_id) and cell_id not in known

    def name_cell(self, cell_id: str, predecessor: str) -> None:
        """Which cell it is; known when this engine is to lead."""
        self.cell = replace(self.cell, cell_id=cell_id, predecessor=predecessor)

    def welcome(self) -> Welcome:
        """What a worker or client learns of the cell when it registers."""
        return replace(self.cell, term=self.term)

    def subject_of(self, client: str) -> str:
        return self.holders.get(client, ANYBODY).subject

    # Asked of parts

    def make_tasks(
        self,
        graph: int,
        content: bytes = b"",
        turn: tuple[float, bool] | None = None,
        *,
        dsk: dict[Key, Any],
        keys: set[Key],
        **kwargs: Any,
    ) -> Any:
        """Make a graph's tasks, on the leader and on a follower that replays it."""
        raise NotImplementedError

    def make_set_aside(
        self, graph: int, client: str, keys: Collection[Key], error: SetAside
    ) -> None:
        """Make errors of the keys of a graph that is not read."""
        raise NotImplementedError

    def exposure_of_task(self, key: Key) -> Exposure | None:
        """The exposure of the graph that made the task; None if that is not known."""
        graph = self.graphs.maker_of(key)
        content = self.graphs.contents.get(graph)
        return Exposure(content, "graph", f"of {short_name(key)}") if content else None

    def rebuilt(self) -> None:
        """Every task of the ledger is known."""

    def was_counted(self, key: Key, run_id: int) -> bool:
        """Whether the failure of this run of a task has taken a retry, and settles nothing."""
        raise NotImplementedError

    def note_attempt(self, ts: TaskState, failed_run: int) -> None:
        raise NotImplementedError
