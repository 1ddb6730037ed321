"""What threads did and saw, and whether one register could have done that.

A history is linearizable if each operation can be given one moment between its call and its answer,
such that the operations in the order of these moments are those of a register (Herlihy and Wing,
1990). The search is that of Wing and Gong: take next any operation that no other one ended before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Operation:
    """``value`` was written, or read, between ``start`` and ``end`` (seconds of one clock)."""

    start: float
    end: float
    is_write: bool
    value: Any


class History:
    """Operations of several threads."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._lock = threading.Lock()

    def write(self, value: Any, call: Callable[[Any], Any]) -> None:
        start = time.monotonic()
        call(value)
        self._add(Operation(start, time.monotonic(), True, value))

    def read(self, call: Callable[[], Any]) -> None:
        start = time.monotonic()
        value = call()
        self._add(Operation(start, time.monotonic(), False, value))

    def _add(self, operation: Operation) -> None:
        with self._lock:
            self.operations.append(operation)


def is_that_of_a_register(history: Sequence[Operation], initial: Any) -> bool:
    """Whether the history is linearizable."""
    operations = sorted(history, key=lambda operation: operation.start)
    tried: set[tuple[int, Any]] = set()
    stack = [((1 << len(operations)) - 1, initial)]
    while stack:
        left, value = stack.pop()
        if not left:
            return True
        if (left, value) in tried:
            continue
        tried.add((left, value))
        remaining = [n for n in range(len(operations)) if left >> n & 1]
        first_end = min(operations[n].end for n in remaining)
        for n in remaining:
            operation = operations[n]
            if operation.start > first_end:
                break
            if operation.is_write or operation.value == value:
                stack.append((left & ~(1 << n), operation.value))
    return False
