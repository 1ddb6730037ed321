"""``get_task_metadata``: what is gathered about tasks while a client asks for it.

Guarantee: a collector, the keys that it awaits and what it has gathered are rows until it is
stopped or its owner's sessions have ended. State and metadata of a task that finished while nobody
led are gathered when its worker has reported. A caller without numbered calls has upstream's
collector, which ends with the leader: nobody could say when its rows may go.
"""

from __future__ import annotations

from typing import Any

from distributed.scheduler import CollectTaskMetaDataPlugin, TaskStateState

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.tables import Change, Table
from ha_scheduler.engine.stream.transactions import current_call

COLLECTORS = "task-metadata"  # name → its owner (ledger/calls.py)
AWAITED = "task-metadata-keys"  # (name, number) → keys
COLLECTED = "task-metadata-item"  # (name, key) → (metadata, state)


class Collector(CollectTaskMetaDataPlugin):
    """Upstream's plugin, whose findings are rows."""

    scheduler: TaskMetadata

    def __init__(self, scheduler: TaskMetadata, name: str, owner: str) -> None:
        super().__init__(scheduler, name)
        self.owner = owner
        self._graphs = 0

    def update_graph(self, scheduler: Any, *, keys: set[Key], **kwargs: Any) -> None:
        super().update_graph(scheduler, keys=keys, **kwargs)
        self._graphs += 1
        row = scheduler.awaited.set((self.name, self._graphs), tuple(keys))
        scheduler.transactions.note(row)

    def transition(
        self, key: Key, start: TaskStateState, finish: TaskStateState, *args: Any, **kwargs: Any
    ) -> None:
        super().transition(key, start, finish, *args, **kwargs)
        at, collected = (self.name, key), self.scheduler.collected
        if key in self.state and at not in collected.rows:
            row = collected.set(at, (self.metadata[key], self.state[key]))
            self.scheduler.transactions.note(row)

    def gone(self) -> list[Change]:
        """Delete its rows."""
        tables: tuple[Table[Any, Any], ...] = (self.scheduler.awaited, self.scheduler.collected)
        rows = [(table, at) for table in tables for at in table.rows if at[0] == self.name]
        own = self.scheduler.collectors.delete(self.name)
        return [*(table.delete(at) for table, at in rows), own]

    def restore(self) -> None:
        """Go on where an earlier leader was."""
        for (name, number), keys in self.scheduler.awaited.rows.items():
            if name == self.name:
                self.keys.update(keys)
                self._graphs = max(self._graphs, number)
        for (name, key), found in self.scheduler.collected.rows.items():
            if name == self.name:
                self.metadata[key], self.state[key] = found
        self.keys -= self.state.keys()
        for key in list(self.keys):
            ts = self.scheduler.tasks.get(key)
            if ts is not None:
                self.transition(key, "released", ts.state)


class TaskMetadata(SchedulerBase):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.calls.on_end.append(self._end_collectors)
        self.collectors = self.tables.add(
            Table[str, str](COLLECTORS, settle=self._restore_collectors)
        )
        self.awaited = self.tables.add(Table[tuple[str, int], tuple[Key, ...]](AWAITED))
        self.collected = self.tables.add(
            Table[tuple[str, Key], tuple[Any, TaskStateState]](COLLECTED)
        )

    def _restore_collectors(self) -> None:
        """This engine leads, and the reports are adopted."""
        for name, owner in self.collectors.rows.items():
            collector = Collector(self, name, owner)
            self.add_plugin(collector)
            collector.restore()
        self._end_collectors()

    def start_task_metadata(self, name: str) -> None:
        call = current_call.get()
        owner = self.sessions.calls.owner(call.session) if call is not None else ""
        if not owner:
            super().start_task_metadata(name)
            return
        self.add_plugin(Collector(self, name, owner))
        self.transactions.write(self.collectors.set(name, owner))

    def stop_task_metadata(self, name: str | None = None) -> Any:
        """As upstream's. Raises ``ValueError`` if there is no such collector."""
        collector = self.plugins.get(name or "")
        result = super().stop_task_metadata(name)
        gone = collector.gone() if isinstance(collector, Collector) else []
        self.transactions.write(*gone, answer=result)
        return result

    def _end_collectors(self) -> None:
        for collector in [each for each in self.plugins.values() if isinstance(each, Collector)]:
            if not self.sessions.calls.owned_by(collector.owner):
                self.remove_plugin(name=collector.name)
                self.transactions.note(*collector.gone())
