"""The task stream: a client sees what ran under the present leader.

Guarantee: if a client asked for the stream under an earlier leader, this one has kept it from its
first task on, and an earlier leader's cursor points before all of it (``get_task_stream`` has one,
client.py, ``get_task_stream_index``). What the earlier leader had seen is lost: a row for each task
would cost the log more than the task does.
"""

from __future__ import annotations

from typing import Any

from distributed.diagnostics.task_stream import TaskStreamPlugin

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.tables import Table

TASK_STREAM = "task-stream"  # of one row, which has its name: whether there is one


class TaskStreams(SchedulerBase):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._task_streams = self.tables.add(
            Table[str, bool](TASK_STREAM, lead=self._restore_task_stream)
        )

    def _task_stream_plugin(self) -> TaskStreamPlugin:
        """As upstream's, which begins the stream at the first request."""
        begins = TaskStreamPlugin.name not in self.plugins
        plugin: TaskStreamPlugin = super()._task_stream_plugin()
        if begins:
            plugin.index = self.term << 32
            if not self._task_streams.rows:
                self.transactions.note(self._task_streams.set(TASK_STREAM, True))
        return plugin

    def _restore_task_stream(self) -> None:
        """This engine is about to lead: continue the stream."""
        if self._task_streams.rows:
            self._task_stream_plugin()
