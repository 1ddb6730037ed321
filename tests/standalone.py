"""An engine without a cell: it leads as soon as it starts, and what it records commits at once.

For tests of workers and clients against the real scheduler of an engine, in this process or in one
of its own (``python -m tests.standalone``). Nothing is replicated: when it dies, what it recorded
is gone. Unlike the engine of a cell it can be closed, for there is nobody else to end it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from typing import Any

from ha_scheduler.engine import scheduler as engine
from ha_scheduler.engine.options import scheduler_arguments
from ha_scheduler.engine.stream.recorder import OnCommit
from ha_scheduler.protocol.client import Welcome

_CELL = Welcome(0, "standalone", "standalone")


class ImmediateLog:
    """What is proposed commits in the next loop step."""

    def confirm(self, on_confirmed: OnCommit) -> None:
        asyncio.get_running_loop().call_soon(on_confirmed)

    def propose(self, data: bytes, on_commit: OnCommit | None) -> None:
        if on_commit is not None:
            asyncio.get_running_loop().call_soon(on_commit)


class Scheduler(engine.Scheduler):
    """Takes what ``distributed.Scheduler`` takes and is used as that is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, cell=_CELL, **kwargs)
        # No later leader has to know of a release before its result is freed.
        self.pending_releases.keep = lambda keys, cs: None  # type: ignore[method-assign]

    async def start_unsafe(self) -> Any:
        """Start, and lead."""
        self.prepare_to_lead(1, ImmediateLog(), lambda phase, detail: None)
        result = await super().start_unsafe()
        self.recover()
        return result

    async def close(self, timeout: float | None = None, reason: str = "unknown") -> None:
        """As ``distributed.Scheduler.close``."""
        await super(engine.Scheduler, self).close(timeout=timeout, reason=reason)


async def run(options: dict[str, Any]) -> None:
    """Serve until the process is ended."""
    await Scheduler(**scheduler_arguments(options))
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.standalone", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls-ca-file", required=True)
    parser.add_argument("--tls-cert", required=True)
    parser.add_argument("--tls-key", required=True)
    parser.add_argument("--log-level", default="info")
    options = {"host": "127.0.0.1", **vars(parser.parse_args())}
    logging.basicConfig(level=options["log_level"].upper())
    logging.getLogger("distributed").setLevel(options["log_level"].upper())
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
