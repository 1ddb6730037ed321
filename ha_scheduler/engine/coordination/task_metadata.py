"""``get_task_metadata``: what is gathered about tasks while a client asks for it.

Guarantee: a collector is a row of the ledger, and so is what it waits for and what it has gathered,
until it is stopped, or its owner's sessions are over. Of a task that finished while nobody led,
state and metadata are gathered when its worker has reported. A caller that does not number its
calls has upstream's collector, which ends with the leader: nobody could say when its rows may go.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from distributed.scheduler import CollectTaskMetaDataPlugin

from ha_scheduler.engine.stream.calls import NumberedCalls
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.tables import GONE, Values
from ha_scheduler.engine.stream.transactions import DELETED, Change, Transactions, current_call
from ha_scheduler.ledger.sessions import Sessions

COLLECTORS = "task-metadata"  # name → its owner (ledger/calls.py)
AWAITED = "task-metadata-keys"  # (name, number) → keys
COLLECTED = "task-metadata-item"  # (name, key) → (metadata, state)

Rows = dict[tuple[str, Any], Any]


class Collector(CollectTaskMetaDataPlugin):
    """Upstream's plugin, whose findings are rows."""

    def __init__(self, scheduler: Any, name: str, owner: str) -> None:
        super().__init__(scheduler, name)
        self.owner = owner
        self.rows: Rows = {}
        self._graphs = 0

    def update_graph(self, scheduler: Any, *, keys: set[Key], **kwargs: Any) -> None:
        """A graph was submitted: its keys are awaited."""
        super().update_graph(scheduler, keys=keys, **kwargs)
        self._graphs += 1
        self._note((AWAITED, self._graphs), tuple(keys))

    def transition(self, key: Key, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """A task changed its state."""
        super().transition(key, start, finish, *args, **kwargs)
        if key in self.state and (COLLECTED, key) not in self.rows:
            self._note((COLLECTED, key), (self.metadata[key], self.state[key]))

    def _note(self, row: tuple[str, Any], value: Any) -> None:
        self.rows[row] = value
        self.scheduler.transactions.note((row[0], (self.name, row[1]), value))

    def gone(self) -> list[Change]:
        """What there is of it in the ledger goes."""
        rows = [(space, (self.name, at), DELETED) for space, at in self.rows]
        return [*rows, (COLLECTORS, self.name, DELETED)]

    def restore(self, rows: Rows) -> None:
        """Go on where an earlier leader was."""
        self.rows = rows
        for (space, at), value in rows.items():
            if space == AWAITED:
                self.keys.update(value)
                self._graphs = max(self._graphs, at)
            else:
                self.metadata[at], self.state[at] = value
        self.keys -= self.state.keys()
        for key in list(self.keys):
            ts = self.scheduler.tasks.get(key)
            if ts is not None:
                self.transition(key, "released", ts.state)


class TaskMetadata:
    """The part of our Scheduler that gathers task metadata; a mixin before upstream's class."""

    # Of the class that this is mixed into
    transactions: Transactions
    values: Values
    plugins: dict[str, Any]
    calls: NumberedCalls
    sessions: Sessions
    _owners: dict[str, str]  # of collectors of the ledger, until this engine leads
    _collectors: dict[str, Rows]  # likewise

    def keep_task_metadata(self) -> None:
        """Follow what the ledger has."""
        self._owners, self._collectors = {}, {}
        self.calls.on_end.append(self._end_collectors)
        self.values.keep(COLLECTORS, self._apply_collector)
        for space in (AWAITED, COLLECTED):
            self.values.keep(space, partial(self._apply, space))

    def _apply_collector(self, name: str, value: Any) -> None:
        if value is GONE:
            self._owners.pop(name, None)
            self._collectors.pop(name, None)
        else:
            self._owners[name] = value

    def _apply(self, space: str, at: tuple[str, Any], value: Any) -> None:
        rows = self._collectors.setdefault(at[0], {})
        if value is GONE:
            rows.pop((space, at[1]), None)
        else:
            rows[space, at[1]] = value

    def restore_task_metadata(self) -> None:
        """This engine leads, and knows what workers hold."""
        for name, owner in self._owners.items():
            collector = Collector(self, name, owner)
            self.add_plugin(collector)  # type: ignore[attr-defined]
            collector.restore(self._collectors.get(name, {}))
        self._owners.clear()
        self._collectors.clear()
        self._end_collectors()

    def start_task_metadata(self, name: str) -> None:
        """As upstream's, and recorded."""
        call = current_call.get()
        owner = self.sessions.calls.owner(call.session) if call is not None else ""
        if not owner:
            super().start_task_metadata(name)  # type: ignore[misc]
            return
        self.add_plugin(Collector(self, name, owner))  # type: ignore[attr-defined]
        self.transactions.write((COLLECTORS, name, owner))

    def stop_task_metadata(self, name: str | None = None) -> Any:
        """As upstream's, and recorded. Raises ``ValueError`` if there is no such collector."""
        collector = self.plugins.get(name or "")
        result = super().stop_task_metadata(name)  # type: ignore[misc]
        gone = collector.gone() if isinstance(collector, Collector) else []
        self.transactions.write(*gone, answer=result)
        return result

    def _end_collectors(self) -> None:
        for collector in [each for each in self.plugins.values() if isinstance(each, Collector)]:
            if not self.sessions.calls.owned_by(collector.owner):
                self.remove_plugin(name=collector.name)  # type: ignore[attr-defined]
                self.transactions.note(*collector.gone())
