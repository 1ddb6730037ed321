"""Progress bars that go on under the next leader.

Upstream's bar ends with its connection (progressbar.py:97), as if the work was done. One of a cell
asks the next leader, until the work is done or no leader was found within
``ha.client.reconnect-timeout``. It counts what its leader knows: intermediate results
that were freed under a former one are no longer among "all".
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from distributed.diagnostics.progressbar import MultiProgressBar, ProgressBar

from client_replay.calls.rpc import reconnect_timeout_s
from ha_scheduler.comm import address as addresses

PAUSE_S_MAX = 0.5
DONE = ("finished", "error")

Listen = Callable[[Any], Coroutine[Any, Any, None]]


def _following(listen: Listen) -> Listen:
    @functools.wraps(listen)
    async def listen_on(bar: Any) -> None:
        if not addresses.is_ha(bar.scheduler):
            await listen(bar)
            return
        deadline = time.monotonic() + reconnect_timeout_s()
        while time.monotonic() < deadline:
            bar.status = bar._last_response = None
            with contextlib.suppress(OSError):
                await listen(bar)
            if bar.status in DONE:
                return
            if bar._last_response is not None:
                deadline = time.monotonic() + reconnect_timeout_s()
            await asyncio.sleep(random.uniform(0, PAUSE_S_MAX))

    return listen_on


_one, _several = _following(ProgressBar.listen), _following(MultiProgressBar.listen)


def install() -> None:
    """Replace the two methods; idempotent."""
    ProgressBar.listen, MultiProgressBar.listen = _one, _several  # type: ignore[method-assign]
