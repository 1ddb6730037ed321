"""Scheduler plugins and uploaded files, on every later leader as well.

Guarantee: a plugin registered through a client is registered with every later leader; the client is
answered when that has committed. A new leader starts it anew from what its client sent. A plugin
with state of its own may keep it by two methods::

    def ha_state(self) -> Any: ...           # something to pickle; asked for every few seconds
    def ha_restore(self, state: Any) -> None: ...  # on the next leader, before ``start``

Order: a follower puts an uploaded file into place at once, because later graphs in the log may need
its module. Plugins start when a follower is about to lead, before it takes in workers: they see
every event of their leader, also that workers return and that their results are in memory (so count
by key). All together have ``START_SECONDS``; what takes longer (an installation) goes on while the
cell works. What a plugin does, whenever it runs, is its own doing (``engine/exposures.py``): one
that ends engines is set aside, and not started on the next leader.

Plugins of ``--preload`` and of the scheduler's own extensions are not recorded: every engine has
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin, SchedulerUploadFile, _get_plugin_name
from distributed.protocol.pickle import dumps, loads
from distributed.utils import import_file
from tornado.ioloop import PeriodicCallback

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.exposures import digest, short_name
from ha_scheduler.engine.stream.tables import DELETED, Change, Deleted, Table
from ha_scheduler.engine.stream.transactions import take_call
from ha_scheduler.protocol.engine import Exposure

SCHEDULER_PLUGINS = "scheduler-plugin"  # name → pickled, as its client sent it
PLUGIN_STATES = "scheduler-plugin-state"  # name of the plugin → pickled

START_SECONDS = 1.0  # a takeover waits this long for all plugins together
STATE_SECONDS = 5.0  # how old the state may be that a plugin gets back

#: What upstream tells plugins of, beside their start.
HOOKS = (
    *("update_graph", "transition", "restart", "log_event", "valid_workers_downscaling"),
    *("add_worker", "remove_worker", "add_client", "remove_client", "before_close", "close"),
)

logger = logging.getLogger(__name__)


class SchedulerPlugins(SchedulerBase):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recorded_plugins: dict[str, bytes] = {}
        self.recorded_states: dict[str, bytes] = {}
        self._plugins = self.tables.add(
            Table(SCHEDULER_PLUGINS, self.recorded_plugins, apply=self._follow_plugin)
        )
        self._states = self.tables.add(Table(PLUGIN_STATES, self.recorded_states))
        self._starting: set[asyncio.Task[None]] = set()
        callback = PeriodicCallback(self.record_plugin_states, STATE_SECONDS * 1000)
        self.periodic_callbacks[PLUGIN_STATES] = callback

    async def register_scheduler_plugin(
        self, plugin: bytes | SchedulerPlugin, name: str | None = None, *, idempotent: bool
    ) -> None:
        """As upstream's, answered after the commit; idempotent by the number of the call."""
        call = take_call()  # what the plugin does is not done in the call's name
        changes: list[Change] = []
        # Before it is started: what it then holds on to may be no thing to pickle.
        pickled = dumps(plugin) if isinstance(plugin, SchedulerPlugin) else bytes(plugin)
        exposure = _exposure(name or "without a name", pickled)
        if not isinstance(plugin, SchedulerPlugin):
            with self.exposures.open(exposure, apart=True):
                plugin = loads(pickled)
            assert isinstance(plugin, SchedulerPlugin)
        if name is None:
            name = str(_get_plugin_name(plugin))
        if not (idempotent and name in self.plugins):
            self._expose_hooks(plugin, exposure)
            await self.exposures.step_by_step(
                super().register_scheduler_plugin(plugin, name=name, idempotent=idempotent),
                exposure,
                apart=True,
            )
            # A state is that of a plugin which had this name before.
            changes = [self._plugins.set(name, pickled), *self._without_state(name)]
        self.transactions.answer(call, *changes, answer=None)
        await self.transactions.settled()

    async def unregister_scheduler_plugin(self, name: str) -> None:
        """As upstream's, answered after the commit; also of one that could not be started here."""
        call = take_call()
        if name in self.plugins or name not in self.recorded_plugins:
            await super().unregister_scheduler_plugin(name=name)
        changes = [self._plugins.delete(name), *self._without_state(name)]
        self.transactions.answer(call, *changes, answer=None)
        await self.transactions.settled()

    def _without_state(self, name: str) -> list[Change]:
        return [self._states.delete(name)] if name in self.recorded_states else []

    def record_plugin_states(self) -> None:
        for name in self.recorded_plugins:
            state_of = getattr(self.plugins.get(name), "ha_state", None)
            if state_of is None:
                continue
            try:
                state = bytes(dumps(state_of()))
            except Exception:  # the code of users
                logger.exception(
                    "Scheduler plugin %r cannot say its state.",
                    name,
                    extra={"action": "plugin_state_failed"},
                )
            else:
                if state != self.recorded_states.get(name):
                    self.transactions.note(self._states.set(name, state))

    def _follow_plugin(self, name: str, pickled: bytes | Deleted) -> None:
        """A follower learns of a plugin: an uploaded file is put into place."""
        plugin = self._unpickled(name) if pickled is not DELETED else None
        if isinstance(plugin, SchedulerUploadFile):
            path = Path(self.local_directory, os.path.basename(plugin.filename))
            path.write_bytes(plugin.data)
            if plugin.load:
                try:
                    with self.exposures.open(self._exposure_of(name), apart=True):
                        import_file(str(path))
                except Exception:  # likewise
                    logger.exception(
                        "The uploaded file %s cannot be imported here.",
                        path.name,
                        extra={"action": "upload_failed"},
                    )

    async def start_plugins(self) -> None:
        """This engine is about to lead: start the plugins of former leaders."""
        self._starting = {
            asyncio.create_task(self._start_plugin(name))
            for name in self.recorded_plugins
            if name not in self.plugins
        }
        if self._starting:
            await asyncio.wait(self._starting, timeout=START_SECONDS)

    async def _start_plugin(self, name: str) -> None:
        plugin = self._unpickled(name)
        if plugin is None:
            return
        exposure = self._exposure_of(name)
        try:
            await self.exposures.step_by_step(self._restore(name, plugin), exposure, apart=True)
            self._expose_hooks(plugin, exposure)
            self.plugins[name] = plugin
        except Exception:  # likewise
            logger.exception(
                "Scheduler plugin %r cannot be started on this leader; register it again.",
                name,
                extra={"action": "plugin_start_failed"},
            )

    async def _restore(self, name: str, plugin: Any) -> None:
        if name in self.recorded_states and hasattr(plugin, "ha_restore"):
            plugin.ha_restore(loads(self.recorded_states[name]))
        if not isinstance(plugin, SchedulerUploadFile) and hasattr(plugin, "start"):
            result = plugin.start(self)
            if inspect.isawaitable(result):
                await result

    def _exposure_of(self, name: str) -> Exposure:
        return _exposure(name, self.recorded_plugins[name])

    def _expose_hooks(self, plugin: Any, exposure: Exposure) -> None:
        """What it does when it is told of something is its own doing, whatever it is told of."""
        for name in HOOKS:
            own = getattr(type(plugin), name, None)
            if own is not getattr(SchedulerPlugin, name, None):
                with contextlib.suppress(AttributeError, TypeError):  # it takes no attributes
                    setattr(plugin, name, self._exposed_hook(getattr(plugin, name), exposure))

    def _exposed_hook(self, hook: Callable[..., Any], exposure: Exposure) -> Callable[..., Any]:
        exposures = self.exposures

        @functools.wraps(hook)
        def exposed(*args: Any, **kwargs: Any) -> Any:
            with exposures.watch(exposure, apart=True):
                result = hook(*args, **kwargs)
            if inspect.iscoroutine(result):
                return exposures.step_by_step(result, exposure, apart=True)
            return result

        return exposed

    def _unpickled(self, name: str) -> Any:
        try:
            with self.exposures.open(self._exposure_of(name), apart=True):
                return loads(self.recorded_plugins[name])
        except Exception:  # pickle runs it as well
            logger.exception(
                "Scheduler plugin %r cannot be read here; install its module on all peers.",
                name,
                extra={"action": "plugin_unreadable"},
            )
            return None


def _exposure(name: str, pickled: bytes) -> Exposure:
    return Exposure(digest([pickled]), "scheduler plugin", short_name(name))
