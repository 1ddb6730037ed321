"""Samples of the cluster's memory, which go on under a new leader.

Guarantee: a sampler that its client knows of samples under each later leader too, until it is
stopped or its client is gone; so no measurement fails because of a failover. The samples of a
former leader are lost: a row for each would cost the log more than the tasks do.
"""

from __future__ import annotations

from typing import Any

from distributed.diagnostics.memory_sampler import MemorySamplerExtension

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.tables import Change, Table
from ha_scheduler.engine.stream.transactions import Transactions, take_call

SAMPLERS = "memory-sampler"  # the key that a client was told → name, what is measured, how often

Sampler = tuple[str, str, float]


class MemorySamplers(MemorySamplerExtension):
    scheduler: SchedulerBase

    def __init__(self, scheduler: SchedulerBase) -> None:
        super().__init__(scheduler)
        self._transactions: Transactions = scheduler.transactions
        self.recorded: dict[str, Sampler] = {}
        self._table = scheduler.tables.add(Table(SAMPLERS, self.recorded, settle=self.restore))
        self._own_keys: dict[str, str] = {}  # under this leader, by the key that was told
        scheduler.handlers["memory_sampler_stop"] = self.stop_asked

    def start(self, client: str, measure: str, interval: float) -> str:
        call = take_call()  # the samples are not taken in its name
        key: str = super().start(client, measure, interval)
        row = self._table.set(key, (client, measure, interval))
        self._transactions.answer(call, row, answer=key)
        return key

    def stop_asked(self, key: str) -> Any:
        samples, rows = self._stop(key)
        self._transactions.answer(take_call(), *rows, answer=samples)
        return samples

    def stop(self, key: str) -> Any:
        """The client of a sampler is gone."""
        samples, rows = self._stop(key)
        self._transactions.note(*rows)
        return samples

    def _stop(self, key: str) -> tuple[Any, list[Change]]:
        """The samples, and the changes to record; ``key``: as it was told, or as it is here."""
        told = next((told for told, own in self._own_keys.items() if own == key), key)
        rows = [self._table.delete(told)] if told in self.recorded else []
        return super().stop(self._own_keys.pop(told, told)), rows

    def restore(self) -> None:
        """This engine leads: sample on for the clients that are expected back."""
        for told, (client, measure, interval) in list(self.recorded.items()):
            if client in self.scheduler.clients:
                self._own_keys[told] = super().start(client, measure, interval)
            else:
                self._transactions.note(self._table.delete(told))
