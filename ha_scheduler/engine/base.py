"""What the parts of our Scheduler share: the stream, the sessions, and the takeover.

Each part is a class that derives from ``SchedulerBase``, which derives from upstream's Scheduler. A
part overrides what it changes of upstream's, owns the attributes that it initialises, and derives
from the parts that it asks or has to come before. ``scheduler.py`` joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import distributed.scheduler as upstream
from msgspec.structs import replace

from ha_scheduler.engine import compat
from ha_scheduler.engine.fencing import LeaseLike, Unfenced
from ha_scheduler.engine.step import OTHER, Step
from ha_scheduler.engine.stream.calls import NumberedCalls
from ha_scheduler.engine.stream.graphs import GraphTable
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.pending_releases import PendingReleases
from ha_scheduler.engine.stream.recorder import OnCommit, Recorder
from ha_scheduler.engine.stream.replay import Replay
from ha_scheduler.engine.stream.runs import Runs
from ha_scheduler.engine.stream.tables import Tables
from ha_scheduler.engine.stream.transactions import Transactions
from ha_scheduler.engine.takeover.adoption import Adoption
from ha_scheduler.engine.takeover.recovery import Recovery
from ha_scheduler.ledger.records import Record
from ha_scheduler.ledger.sessions import Sessions
from ha_scheduler.protocol.client import Welcome

if TYPE_CHECKING:
    from ha_scheduler.engine.scheduler import Scheduler

OnMark = Callable[[str, dict[str, Any]], None]


class SchedulerBase(upstream.Scheduler):
    """The state that several parts use, there before upstream's extensions are made."""

    def __init__(
        self, *, cell: Welcome | None = None, lease: LeaseLike | None = None, **kwargs: Any
    ) -> None:
        compat.install()
        self.term = 0
        self.cell = cell or Welcome(0, "", "")
        self.lease = lease or Unfenced()
        self.recorder: Recorder | None = None  # None: this engine follows
        self.graphs = GraphTable()
        self.sessions = Sessions()
        self.session_of: dict[str, str] = {}  # by client
        self.scattered: set[Key] = set()
        whole = cast("Scheduler", self)
        self.pending_releases = PendingReleases(whole)
        self.tables = Tables()
        self.transactions = Transactions(whole)
        self.calls = NumberedCalls(whole, self.transactions)
        self.replay = Replay(whole)
        self.runs = Runs(self.graphs)
        self.adoption = Adoption(whole)
        self.recovery = Recovery(self.open_recovery)
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

    def open_recovery(self) -> None:
        """Every report that will come in time has come."""
        raise NotImplementedError

    def welcome(self) -> Welcome:
        """What a worker or client learns of the cell when it registers."""
        return replace(self.cell, term=self.term)
