"""Tasks that count how often they are run, and others that wait for a word of the test."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from tests.engine.conftest import Pair

runs: Counter[Any] = Counter()
gate = threading.Event()


def begin() -> None:
    """A test begins: nothing has run, and the gate is closed."""
    runs.clear()
    gate.clear()


def work(number: Any) -> Any:
    runs[number] += 1
    return number


def blocked(number: Any) -> Any:
    runs[number] += 1
    gate.wait(30)
    return number


async def on_each_worker(both: Pair) -> list[Any]:
    """A finished result on each worker."""
    futures = [
        both.client.submit(
            work, f"on{i}", key=f"on{i}", workers=[w.address], allow_other_workers=True
        )
        for i, w in enumerate(both.workers)
    ]
    await both.client.gather(futures)
    return futures


def holders(leader: Any, key: Any) -> set[str]:
    return {ws.address for ws in leader.tasks[key].who_has}
