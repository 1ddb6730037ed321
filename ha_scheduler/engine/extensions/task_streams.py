"""The task stream, of which a client sees what ran under the present leader.

Guarantee: if a client asked for the stream under an earlier leader, this one has kept it from its
first task on; and a cursor that an earlier leader gave points before all that this one has seen.
``get_task_stream`` names the place at which it began by such a cursor (client.py,
``get_task_stream_index``). What the earlier leader had seen is lost: a row for each task would cost
the log more than the task does.
"""

from __future__ import annotations

from typing import Any

from distributed.diagnostics.task_stream import TaskStreamPlugin

from ha_scheduler.engine.stream.tables import SWITCHES, Values

TASK_STREAM = "task-stream"  # its row


class TaskStreams:
    """The part of our Scheduler that keeps the stream on; a mixin before upstream's class."""

    # Of the class that this is mixed into
    term: int
    values: Values
    plugins: dict[str, Any]
    switches: dict[str, bool]

    def _task_stream_plugin(self) -> TaskStreamPlugin:
        """As upstream's, which begins the stream with the first question."""
        begins = TaskStreamPlugin.name not in self.plugins
        plugin: TaskStreamPlugin = super()._task_stream_plugin()  # type: ignore[misc]
        if begins:
            plugin.index = self.term << 32
            self.switches[TASK_STREAM] = True
            self.values.write_soon(SWITCHES, TASK_STREAM)
        return plugin

    def restore_task_stream(self) -> None:
        """This engine is about to lead: go on with what was asked for."""
        if self.switches.get(TASK_STREAM):
            self._task_stream_plugin()
