"""Commands of the site that run when this peer begins to lead and when it ends: for addresses that
a cloud gives out, or a load balancer that is told.

Guarantee: they run one at a time and in order; a leadership that ended before its command began is
skipped with its end; each has ``HOOK_S``, then it and its children are killed. What they do decides
nothing here: a failure is an ERROR in the log, and the peer leads on.

A frozen peer runs its command late, when another leads. So a command that takes an address away
must look first whether this host still has it, or leave it to the next leader's command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from dataclasses import dataclass

HOOK_S = 10.0  # an API of a cloud answers in seconds; `--engine-watchdog` is about the engine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Commands:
    """Of a shell, or None. They get ``DASK_HA_PEER``, ``DASK_HA_CELL`` and ``DASK_HA_TERM``."""

    promote: str | None = None
    demote: str | None = None


class Hooks:
    """Runs the commands of one peer."""

    def __init__(
        self, commands: Commands, peer: str, cell: str, time_limit_s: float = HOOK_S
    ) -> None:
        self._commands, self._time_limit_s = commands, time_limit_s
        self._names = {"DASK_HA_PEER": peer, "DASK_HA_CELL": cell}
        self._leads, self._term = False, 0
        self._told = False  # what the last command said
        self._running: asyncio.Task[None] | None = None

    def lead(self, term: int) -> None:
        self._want(True, term)

    def end(self, term: int) -> None:
        self._want(False, term)

    async def stop(self) -> None:
        """This peer ends; returns when its last command has."""
        self._want(False, self._term)
        if self._running is not None:
            await self._running

    def _want(self, leads: bool, term: int) -> None:
        self._leads, self._term = leads, term
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while self._told != self._leads:
            self._told = self._leads
            if self._told:
                await self._run(self._commands.promote, "--on-promote", self._term)
            else:
                await self._run(self._commands.demote, "--on-demote", self._term)

    async def _run(self, command: str | None, option: str, term: int) -> None:
        if command is None:
            return
        process = await asyncio.create_subprocess_shell(
            command,
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **self._names, "DASK_HA_TERM": str(term)},
            start_new_session=True,
        )
        status: int | str
        try:
            async with asyncio.timeout(self._time_limit_s):
                status = await process.wait()
        except TimeoutError:
            status = f"still running after {self._time_limit_s:g} s, and killed"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # children too, which may outlive a shell
            await process.wait()
        if status == 0:
            logger.info("the command of %s ended", option, extra={"action": "hook_ended"})
        else:
            logger.error(
                "the command of %s failed for term %d (status %s); run it by hand with "
                "DASK_HA_TERM=%d to see why",
                option,
                term,
                status,
                term,
                extra={"action": "hook_failed"},
            )
