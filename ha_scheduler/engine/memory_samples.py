"""Samples of the cluster's memory, which go on under a new leader.

Guarantee: a sampler that its client was told of samples under each later leader too, until it is
stopped or its client is gone; so the end of a measurement never fails because of a failover. The
samples themselves are those of one leader: what a former one took is lost, because a row for each
would cost the log more than the tasks do.
"""

from __future__ import annotations

from typing import Any

from distributed.diagnostics.memory_sampler import MemorySamplerExtension

SAMPLERS = "memory-sampler"  # the space of their values in the ledger


class MemorySamplers(MemorySamplerExtension):
    """The scheduler's memory_sampler extension."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        #: By the key that a client was told: its name, what is measured, and how often.
        self.recorded: dict[str, tuple[str, str, float]] = {}
        self._own_keys: dict[str, str] = {}  # under this leader, by the key that was told

    async def start(self, client: str, measure: str, interval: float) -> str:
        """As upstream's, and then committed."""
        key: str = super().start(client, measure, interval)
        self.recorded[key] = (client, measure, interval)
        await self.scheduler.values.write(SAMPLERS, key)
        return key

    def stop(self, key: str) -> Any:
        """As upstream's, by the key that was told or by the one that it has here."""
        told = next((told for told, own in self._own_keys.items() if own == key), key)
        if self.recorded.pop(told, None) is not None:
            self.scheduler.values.write_soon(SAMPLERS, told)
        return super().stop(self._own_keys.pop(told, told))

    def restore(self) -> None:
        """This engine leads: sample on for the clients that are expected back."""
        for told, (client, measure, interval) in list(self.recorded.items()):
            if client in self.scheduler.clients:
                self._own_keys[told] = super().start(client, measure, interval)
            else:
                del self.recorded[told]
                self.scheduler.values.write_soon(SAMPLERS, told)
