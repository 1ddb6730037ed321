"""What it costs to say what an engine is exposed to: CPU microseconds for each graph.

    python -m benchmarks.exposures

Measured: a coroutine of three steps, as a graph is to the engine's event loop, alone and with the
digest of its bytes and an exposure that is open in each step; one exposure; the digest of a large
graph.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable

from ha_scheduler.engine.exposures import Exposures, digest
from ha_scheduler.engine.stream.graphs import content_of, exposure_of
from ha_scheduler.shared_exposures import SharedExposures

ROUNDS = 20_000
GRAPH_BYTES = 620  # of ``client.submit``
LARGE_BYTES = 100 << 20
KEY = "inc-fad827b2-a814-4a95-9acb-73c46e6ff674"


async def graph() -> None:
    """Three steps: unpickled, materialised, made into tasks."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def cpu_us(work: Callable[[], Awaitable[None]]) -> float:
    began = time.process_time()
    for _ in range(ROUNDS):
        await work()
    return (time.process_time() - began) / ROUNDS * 1e6


async def main() -> None:
    exposures, frame = Exposures(SharedExposures.create()), os.urandom(GRAPH_BYTES)
    exposure = exposure_of(content_of([frame], {KEY}), {KEY}, "Client-1", "s", 1)

    async def exposed() -> None:
        told = exposure_of(content_of([frame], {KEY}), {KEY}, "Client-1", "s", 1)
        await exposures.step_by_step(graph(), told)

    async def one() -> None:
        with exposures.open(exposure):
            pass

    bare, whole, single = [await cpu_us(work) for work in (graph, exposed, one)]
    large = os.urandom(LARGE_BYTES)
    began = time.process_time()
    digest([large])
    took_ms = (time.process_time() - began) * 1e3
    sys.stdout.write(
        f"a graph: {bare:.1f} us bare, {whole:.1f} us exposed in three steps; one exposure: "
        f"{single:.1f} us; the digest of 100 MiB: {took_ms:.0f} ms\n"
    )


if __name__ == "__main__":
    asyncio.run(main())
