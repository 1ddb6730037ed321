"""The site's command that starts and ends workers (``--scale-command``), run by the leading daemon.

``PROGRAM up N`` means: the owner should have N workers in all; ``PROGRAM down NAME...``: these have
been retired and closed, end what they ran in. The owner is in ``DASK_HA_OWNER``; the names of this
peer, of the cell and the term as for ``--on-promote``. A program and words, never a shell: owners
and workers are named by users.

Guarantee: one command runs at a time, and each has ``COMMAND_S``. Of what an owner should have the
latest counts, so a slow command makes no queue; names of workers that left are kept for theirs.
Nothing is run for a peer that leads no more, but what runs then runs to its end: commands say what
should be, and may be repeated.

What the command is asked for follows from graphs of users. How much it starts at most is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Sequence

from ha_scheduler.protocol.engine import LEAVING_MAX, ScaleWanted

COMMAND_S = 60.0  # a batch system that is asked for many jobs
OWNERS_MAX = 1_000  # waiting at once; the engine says it again

logger = logging.getLogger(__name__)


class ScaleCommand:
    """Runs the command of one peer."""

    def __init__(
        self, program: str | None, peer: str, cell: str, time_limit_s: float = COMMAND_S
    ) -> None:
        self._program, self._time_limit_s = program, time_limit_s
        self._names = {"DASK_HA_PEER": peer, "DASK_HA_CELL": cell}
        self._wanted: dict[str, ScaleWanted] = {}
        self._running: asyncio.Task[None] | None = None
        self._said_none = False

    def want(self, message: ScaleWanted) -> None:
        """The engine of the leader says what an owner should have."""
        if self._program is None:
            if not self._said_none:
                self._said_none = True
                logger.warning(
                    "%s should have %d workers by a command, and this peer has none; start the "
                    "peers with --scale-command",
                    message.owner,
                    message.total,
                    extra={"action": "scale_command_missing"},
                )
            return
        before = self._wanted.pop(message.owner, None)
        if before is None and len(self._wanted) >= OWNERS_MAX:
            return
        if before is not None:
            leaving = tuple(dict.fromkeys((*before.leaving, *message.leaving)))[:LEAVING_MAX]
            message = ScaleWanted(message.term, message.owner, message.total, leaving)
        self._wanted[message.owner] = message
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._follow())

    def forget(self) -> None:
        """This peer leads no more: the next leader's engine says what it wants."""
        self._wanted.clear()

    async def stop(self) -> None:
        """This peer ends; returns when the command that runs has."""
        self.forget()
        if self._running is not None:
            await self._running

    async def _follow(self) -> None:
        while self._wanted:
            message = self._wanted.pop(next(iter(self._wanted)))
            if message.leaving:
                await self._run(message, ["down", *message.leaving])
            else:
                await self._run(message, ["up", str(message.total)])

    async def _run(self, message: ScaleWanted, words: Sequence[str]) -> None:
        assert self._program is not None
        names = {"DASK_HA_OWNER": message.owner, "DASK_HA_TERM": str(message.term)}
        status: int | str
        try:
            process = await asyncio.create_subprocess_exec(
                self._program,
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, **self._names, **names},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # a name with a null byte is one
            status = f"not run: {error}"
        else:
            status = await self._ended(process)
        if status == 0:
            logger.info(
                "the scale command said %s for %s",
                words[0],
                message.owner,
                extra={"action": "scale_command_ended"},
            )
        else:
            logger.error(
                "the scale command failed for %s (%s %s; status %s); run it by hand to see why",
                message.owner,
                words[0],
                message.total,
                status,
                extra={"action": "scale_command_failed"},
            )

    async def _ended(self, process: asyncio.subprocess.Process) -> int | str:
        try:
            async with asyncio.timeout(self._time_limit_s):
                return await process.wait()
        except TimeoutError:
            # With its children; one that ended leaves them alone, which may be the workers.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            return f"still running after {self._time_limit_s:g} s, and killed"
