"""Statistics of the work: how long tasks take, how fast the network is.

Guarantee: nothing depends on them, so they are recorded at most every ``EVERY_SECONDS``, and only
if something changed by more than ``NEWS``. With them a new leader places tasks as well as the old
one did; without them it would take every task for half a second long (``UNKNOWN_TASK_DURATION``)
until it had seen one of its kind.

Order: a follower keeps the latest record and applies it when about to lead, after the replay has
made the prefixes.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from distributed.scheduler import TaskPrefix
from tornado.ioloop import PeriodicCallback

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.tables import Table

STATISTICS = "statistics"  # of one row, which has its name

EVERY_SECONDS = 5.0
NEWS = 0.2  # of the former value: what changes less is not worth a record
PREFIXES_MAX = 2_000  # the newest; some 60 bytes each

Row = dict[str, Any]


class Statistics:
    def __init__(self, scheduler: SchedulerBase) -> None:
        self._scheduler = scheduler
        self.recorded: dict[str, Row] = {}
        self._table = scheduler.tables.add(Table(STATISTICS, self.recorded, lead=self.restore))
        scheduler.periodic_callbacks[STATISTICS] = PeriodicCallback(
            self.record, EVERY_SECONDS * 1000
        )

    def record(self) -> None:
        if self._scheduler.recorder is None:
            return
        now = self._take()
        if _is_news(self.recorded.get(STATISTICS), now):
            self._scheduler.transactions.note(self._table.set(STATISTICS, now))

    def restore(self) -> None:
        scheduler, known = self._scheduler, self.recorded.get(STATISTICS)
        if known is None:
            return
        scheduler.bandwidth = known["bandwidth"]
        scheduler.bandwidth_types.update(known["bandwidth_types"])
        for name, (average, longest, suspicious) in known["prefixes"].items():
            prefix = scheduler.task_prefixes.get(name)
            if prefix is None:  # upstream, too, keeps the prefixes of tasks that are gone
                prefix = scheduler.task_prefixes[name] = TaskPrefix(name)
            prefix.duration_average = average
            prefix.max_exec_time = longest
            prefix.suspicious = suspicious

    def _take(self) -> Row:
        scheduler = self._scheduler
        newest = islice(reversed(scheduler.task_prefixes.values()), PREFIXES_MAX)
        return {
            "bandwidth": scheduler.bandwidth,
            "bandwidth_types": dict(scheduler.bandwidth_types),
            "prefixes": {
                prefix.name: (prefix.duration_average, prefix.max_exec_time, prefix.suspicious)
                for prefix in newest
                if prefix.duration_average >= 0 or prefix.max_exec_time >= 0 or prefix.suspicious
            },
        }


def _is_news(before: Row | None, now: Row) -> bool:
    if before is None:
        return bool(now["prefixes"])
    if before["prefixes"].keys() != now["prefixes"].keys():
        return True
    pairs = [(before["bandwidth"], now["bandwidth"])]
    for name, numbers in now["prefixes"].items():
        pairs += zip(before["prefixes"][name], numbers, strict=True)
    return any(_moved(old, new) for old, new in pairs)


def _moved(old: float, new: float) -> bool:
    return abs(new - old) > NEWS * abs(old)
