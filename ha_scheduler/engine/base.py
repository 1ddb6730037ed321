"""The state that the parts of our Scheduler share.

Each part derives from ``SchedulerBase``, and so from upstream's Scheduler. It overrides what it
changes of upstream's, owns the attributes that it initialises, and derives from the parts that it
asks or has to come before. ``scheduler.py`` joins them.
"""

from __future__ import annotations

from typing import Any

from ha_scheduler.comm.callers import Callers
from ha_scheduler.engine.stream.calls import NumberedCalls
from ha_scheduler.engine.stream.pending_releases import PendingReleases
from ha_scheduler.engine.stream.replay import Replay
from ha_scheduler.engine.stream.state import StreamScheduler
from ha_scheduler.engine.stream.transactions import Transactions
from ha_scheduler.engine.takeover.adoption import Adoption
from ha_scheduler.engine.takeover.recovery import Recovery


class SchedulerBase(StreamScheduler):
    def __init__(self, **kwargs: Any) -> None:
        self.callers = Callers(self)
        self.pending_releases = PendingReleases(self)
        self.transactions = Transactions(self)
        self.calls = NumberedCalls(self, self.transactions)
        self.replay = Replay(self)
        self.adoption = Adoption(self)
        self.recovery = Recovery(self.open_recovery)
        super().__init__(**kwargs)

    def open_recovery(self) -> None:
        """Every report that comes in time has come."""
        raise NotImplementedError
