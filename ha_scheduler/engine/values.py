"""Named values that live in the ledger: worker and nanny plugins, and client metadata.

Guarantee: an operation that sets or removes one is answered after its record has committed, so what
a client was told is there is there after a failover. The value takes effect on this engine first,
in the order of the records; a reader on this engine may therefore see a value a moment before its
writer is told, and never one that a later leader takes back once a reply was given.

More spaces (variables, queues, locks, datasets, shuffle runs) join by a ``_Space`` each.
"""

from __future__ import annotations

import asyncio
from typing import Any

from distributed.protocol.pickle import dumps, loads

from ha_scheduler.engine.graphs import INLINE_BYTES_MAX
from ha_scheduler.engine.keys import decode_key, encode_key
from ha_scheduler.engine.recorder import Recorder
from ha_scheduler.ledger.records import ValueDeleted, ValueSet

WORKER_PLUGINS = "worker-plugin"
NANNY_PLUGINS = "nanny-plugin"
METADATA = "metadata"


class Values:
    """The engine's side of the ledger's named values."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._pickled: dict[tuple[str, Any], bytes] = {}

    def apply(self, space: str, name: bytes, value: bytes | None) -> None:
        """A follower learns of a value, or (None) that it is gone."""
        holder = self._holder(space)
        key = decode_key(name)
        if value is None:
            holder.pop(key, None)
            self._pickled.pop((space, key), None)
        else:
            holder[key] = loads(value)
            self._pickled[space, key] = value

    def _holder(self, space: str) -> dict[Any, Any]:
        holders: dict[str, dict[Any, Any]] = {
            WORKER_PLUGINS: self._scheduler.worker_plugins,
            NANNY_PLUGINS: self._scheduler.nanny_plugins,
            METADATA: self._scheduler.task_metadata,
        }
        return holders[space]

    async def committed(self, recorder: Recorder, space: str, key: Any) -> None:
        """Record the present value under ``key``, if it is another, and wait for the commit."""
        holder = self._holder(space)
        record: ValueSet | ValueDeleted | None
        if key in holder:
            record = self._changed(recorder, space, key, bytes(dumps(holder[key])))
        else:
            self._pickled.pop((space, key), None)
            record = ValueDeleted(space, encode_key(key), "", 0)
        if record is not None:
            committed = asyncio.Event()
            recorder.append(record, on_commit=committed.set)
            await committed.wait()

    def _changed(self, recorder: Recorder, space: str, key: Any, data: bytes) -> ValueSet | None:
        if self._pickled.get((space, key)) == data:
            return None
        self._pickled[space, key] = data
        blob = parts = 0
        if len(data) > INLINE_BYTES_MAX:
            blob, parts = recorder.append_blob(data)
            data = b""
        return ValueSet(space, encode_key(key), data, blob, parts, recorder.term, "", 0)


class ReplicatedValues:
    """The part of our Scheduler that commits before it replies; a mixin before upstream's class."""

    recorder: Recorder | None
    values: Values

    async def register_worker_plugin(
        self, comm: Any, plugin: bytes, name: str, idempotent: bool | None = None
    ) -> Any:
        """As upstream's, and then committed."""
        result = await super().register_worker_plugin(  # type: ignore[misc]
            comm, plugin=plugin, name=name, idempotent=idempotent
        )
        await self._commit(WORKER_PLUGINS, name)
        return result

    async def unregister_worker_plugin(self, comm: Any, name: str) -> Any:
        """As upstream's, and then committed."""
        result = await super().unregister_worker_plugin(comm, name=name)  # type: ignore[misc]
        await self._commit(WORKER_PLUGINS, name)
        return result

    async def register_nanny_plugin(
        self, comm: Any, plugin: bytes, name: str, idempotent: bool | None = None
    ) -> Any:
        """As upstream's, and then committed."""
        result = await super().register_nanny_plugin(  # type: ignore[misc]
            comm, plugin=plugin, name=name, idempotent=idempotent
        )
        await self._commit(NANNY_PLUGINS, name)
        return result

    async def unregister_nanny_plugin(self, comm: Any, name: str) -> Any:
        """As upstream's, and then committed."""
        result = await super().unregister_nanny_plugin(comm, name=name)  # type: ignore[misc]
        await self._commit(NANNY_PLUGINS, name)
        return result

    async def set_metadata(self, keys: list[Any], value: object = None) -> None:
        """As upstream's, and then committed: the whole value under the first of ``keys``."""
        super().set_metadata(keys=keys, value=value)  # type: ignore[misc]
        await self._commit(METADATA, keys[0])

    async def _commit(self, space: str, key: Any) -> None:
        if self.recorder is not None:
            await self.values.committed(self.recorder, space, key)
