"""Published datasets (``Client.publish_dataset``).

Guarantee: a dataset counts as published when its row has committed; its keys are wanted before
that. Datasets that one call publishes appear together.

The client asks to be waited for until its stream has caught up with the call
(``publish_flush_batched_send``), and again on its new stream after a failover.
"""

from __future__ import annotations

from typing import Any

from dask.utils import stringify
from distributed.protocol.serialize import Serialized
from distributed.publish import PublishExtension

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.tables import DELETED, Table
from ha_scheduler.engine.stream.transactions import Transactions

DATASETS = "dataset"  # name → (keys, header, frames), or (keys, None, data)

Dataset = dict[str, Any]


class Datasets(PublishExtension):
    scheduler: SchedulerBase

    datasets: dict[Key, Dataset]  # type: ignore[assignment]  # upstream's has futures

    def __init__(self, scheduler: SchedulerBase) -> None:
        super().__init__(scheduler)
        self._transactions: Transactions = scheduler.transactions
        self._rows = scheduler.tables.add(Table(DATASETS, apply=self._apply, settle=self._restore))

    def _apply(self, name: Key, value: Any) -> None:
        if value is DELETED:
            self.datasets.pop(name, None)
            return
        keys, header, data = value
        if header is not None:
            data = Serialized(header, data)
        self.datasets[name] = {"data": data, "keys": keys}

    def _restore(self) -> None:
        """This engine leads: release the keys of datasets that were never published."""
        named = {_client(name): set(dataset["keys"]) for name, dataset in self.datasets.items()}
        for client, cs in list(self.scheduler.clients.items()):
            if client.startswith(_client("")) and client not in named:
                self.scheduler.remove_client(client)
            elif client.startswith(_client("")):
                excess = {ts.key for ts in cs.wants_what} - named[client]
                self.scheduler.client_releases_keys(keys=excess, client=client)

    async def put(
        self,
        names: tuple[Key, ...],
        keys: tuple[tuple[Key, ...], ...],
        data: tuple[Any, ...],
        override: bool,
        client: str,
        uid: bytes,
    ) -> None:
        """Publish datasets. Raises ``KeyError`` if one exists and ``override`` is false."""
        await self._sync_batched_send(client, uid)
        if not override:
            for name in names:
                if name in self.datasets:
                    raise KeyError(f"Dataset {name} already exists")
        for name, wanted in zip(names, keys, strict=True):
            self.scheduler.client_desires_keys(wanted, _client(name))
        rows = [_row(wanted, each) for wanted, each in zip(keys, data, strict=True)]
        self._transactions.write(*map(self._rows.set, names, rows))
        for name, row in zip(names, rows, strict=True):
            former = self.datasets.get(name)
            self._apply(name, row)
            self._release(name, former, kept=set(row[0]))

    async def delete(self, names: tuple[Key, ...], client: str, uid: bytes) -> None:
        """Unpublish datasets; unknown ones are ignored."""
        await self._sync_batched_send(client, uid)
        gone = {name: self.datasets.pop(name) for name in names if name in self.datasets}
        if gone:
            self._transactions.write(*map(self._rows.delete, gone))
        for name in gone:
            if _client(name) in self.scheduler.clients:  # upstream keeps it for ever
                self.scheduler.remove_client(_client(name))

    def _release(self, name: Key, former: Dataset | None, kept: set[Key]) -> None:
        # One that wanted nothing has no pseudo-client with a leader that came after it.
        if former is not None and _client(name) in self.scheduler.clients:
            keys = [key for key in former["keys"] if key not in kept]
            self.scheduler.client_releases_keys(keys, _client(name))


def _client(name: Key) -> str:
    """The pseudo-client that wants a dataset's keys (publish.py:100)."""
    return f"published-{stringify(name)}"


def _row(keys: tuple[Key, ...], data: Any) -> tuple[Any, ...]:
    if isinstance(data, Serialized):
        return tuple(keys), data.header, [bytes(frame) for frame in data.frames]
    return tuple(keys), None, data
