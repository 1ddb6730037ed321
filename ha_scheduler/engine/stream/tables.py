"""Named values that live in the ledger: plugins, metadata, and the run specs of shuffles.

Guarantee: an operation that sets or removes one is answered after its record has committed, so what
a client was told is there is there after a failover. The value takes effect on this engine first,
in the order of the records; a reader on this engine may therefore see a value a moment before its
writer is told, and never one that a later leader takes back once a reply was given.

A *space* names where its values live on the engine: in a dict of ``_holder``, or with a keeper, as
those of the coordination objects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from distributed.protocol.pickle import dumps, loads

from ha_scheduler import failpoints
from ha_scheduler.engine.extensions.shuffles import MEMBERS, SHUFFLES
from ha_scheduler.engine.stream.graphs import INLINE_BYTES_MAX
from ha_scheduler.engine.stream.keys import decode_key, encode_key
from ha_scheduler.engine.stream.recorder import OnCommit, Recorder
from ha_scheduler.ledger.records import ValueDeleted, ValueSet

logger = logging.getLogger(__name__)

WORKER_PLUGINS = "worker-plugin"
NANNY_PLUGINS = "nanny-plugin"
SCHEDULER_PLUGINS = "scheduler-plugin"
PLUGIN_STATES = "scheduler-plugin-state"
METADATA = "metadata"
ATTEMPTS = "attempts"
ACTORS = "actor"
STATISTICS = "statistics"
RETIREMENTS = "departure"
DISMISSED = "dismissed"
SWITCHES = "switch"

GONE: Any = object()  # what a keeper is given for a value that is gone
Keeper = Callable[[Any, Any], None]


class Values:
    """The engine's side of the ledger's named values."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._pickled: dict[tuple[str, Any], bytes] = {}
        self._on_its_way: dict[tuple[str, Any], asyncio.Event] = {}
        self._keepers: dict[str, Keeper] = {}

    def keep(self, space: str, keeper: Keeper) -> None:
        """``keeper`` applies the values of ``space``: it is given a name and a value, or GONE."""
        self._keepers[space] = keeper

    def apply(self, space: str, name: bytes, value: bytes | None) -> None:
        """A follower learns of a value, or (None) that it is gone."""
        key = decode_key(name)
        known = GONE if value is None else _read(space, key, value)
        keeper = self._keepers.get(space)
        if keeper is not None:
            keeper(key, known)
            return
        holder = self._holder(space)
        if known is GONE:
            holder.pop(key, None)
            self._pickled.pop((space, key), None)
        else:
            holder[key] = known
            self._pickled[space, key] = value or b""
            if space == SCHEDULER_PLUGINS:
                self._scheduler.follow_plugin(key)

    def _holder(self, space: str) -> dict[Any, Any]:
        scheduler = self._scheduler
        holders: dict[str, dict[Any, Any]] = {
            WORKER_PLUGINS: scheduler.worker_plugins,
            NANNY_PLUGINS: scheduler.nanny_plugins,
            SCHEDULER_PLUGINS: scheduler.recorded_plugins,
            PLUGIN_STATES: scheduler.recorded_states,
            METADATA: scheduler.task_metadata,
            ATTEMPTS: scheduler.attempts,
            ACTORS: scheduler.actors_created,
            STATISTICS: scheduler.statistics.recorded,
            RETIREMENTS: scheduler.retirements,
            DISMISSED: scheduler.dismissed,
            SWITCHES: scheduler.switches,
            SHUFFLES: scheduler.extensions["shuffle"].recorded,
            MEMBERS: scheduler.extensions["shuffle"].members,
        }
        return holders[space]

    async def write(self, space: str, key: Any) -> None:
        """Record the value that is now under ``key``, if it changed, and wait for the commit."""
        committed = asyncio.Event()
        if self._append(space, key, committed.set):
            self._on_its_way[space, key] = committed
            await committed.wait()
            if self._on_its_way.get((space, key)) is committed:
                del self._on_its_way[space, key]
        elif earlier := self._on_its_way.get((space, key)):
            await earlier.wait()

    def write_soon(self, space: str, key: Any) -> None:
        """Record the value that is now under ``key``, if it changed."""
        self._append(space, key, None)

    def _append(self, space: str, key: Any, on_commit: OnCommit | None) -> bool:
        recorder: Recorder | None = self._scheduler.recorder
        if recorder is None:
            return False
        holder = self._holder(space)
        record: ValueSet | ValueDeleted
        if key in holder:
            data = bytes(dumps(holder[key]))
            if self._pickled.get((space, key)) == data:
                return False
            self._pickled[space, key] = data
            record = value_set(recorder, space, key, data)
        else:
            self._pickled.pop((space, key), None)
            record = ValueDeleted(space, encode_key(key))
        recorder.append(record, on_commit)
        return True


def _read(space: str, key: Any, value: bytes) -> Any:
    """The value, or GONE for one that needs a module which this engine lacks.

    Such a value must not end the engine: the next one would end of it as well.
    """
    try:
        return loads(value)
    except Exception:
        logger.exception(
            "The value of %r in %s cannot be read here, and is lost if this peer leads; install on "
            "all peers what its client uses.",
            key,
            space,
            extra={"action": "value-unreadable"},
        )
        return GONE


def value_set(recorder: Recorder, space: str, key: Any, data: bytes) -> ValueSet:
    """The record of a value; a long one is written ahead of it in parts."""
    blob = parts = 0
    if len(data) > INLINE_BYTES_MAX:
        blob, parts = recorder.append_blob(data)
        data = b""
    return ValueSet(space, encode_key(key), data, blob, parts, recorder.term)


class ReplicatedValues:
    """The part of our Scheduler that commits before it replies; a mixin before upstream's class."""

    values: Values

    async def register_worker_plugin(
        self, comm: Any, plugin: bytes, name: str, idempotent: bool
    ) -> Any:
        """As upstream's, and then committed."""
        failpoints.reach("register_worker_plugin.arrived")
        result = await super().register_worker_plugin(  # type: ignore[misc]
            comm, plugin=plugin, name=name, idempotent=idempotent
        )
        failpoints.reach("register_worker_plugin.done")
        await self.values.write(WORKER_PLUGINS, name)
        failpoints.reach("register_worker_plugin.committed")
        return result

    async def unregister_worker_plugin(self, comm: Any, name: str) -> Any:
        """As upstream's, and then committed."""
        result = await super().unregister_worker_plugin(comm, name=name)  # type: ignore[misc]
        await self.values.write(WORKER_PLUGINS, name)
        return result

    async def register_nanny_plugin(
        self, comm: Any, plugin: bytes, name: str, idempotent: bool
    ) -> Any:
        """As upstream's, and then committed."""
        failpoints.reach("register_nanny_plugin.arrived")
        result = await super().register_nanny_plugin(  # type: ignore[misc]
            comm, plugin=plugin, name=name, idempotent=idempotent
        )
        failpoints.reach("register_nanny_plugin.done")
        await self.values.write(NANNY_PLUGINS, name)
        failpoints.reach("register_nanny_plugin.committed")
        return result

    async def unregister_nanny_plugin(self, comm: Any, name: str) -> Any:
        """As upstream's, and then committed."""
        result = await super().unregister_nanny_plugin(comm, name=name)  # type: ignore[misc]
        await self.values.write(NANNY_PLUGINS, name)
        return result
