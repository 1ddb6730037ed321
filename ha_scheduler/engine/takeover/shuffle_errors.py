"""Errors of P2P shuffles that are due to the loss of a leader, and no outcome of their tasks."""

from __future__ import annotations

from distributed.scheduler import TaskState
from distributed.shuffle._core import ShuffleId, id_from_key

OVERTAKEN = ("P2PConsistencyError(", "ShuffleClosedError(")  # how such an error's text begins
FAILED = ("RuntimeError('P2P ", 'RuntimeError("P2P ')  # shuffle/_core.py:535, 551, 592


def is_no_outcome(ts: TaskState, exception_text: str) -> bool:
    """Whether a task of a shuffle failed in a way that may be due to the loss of a leader."""
    return exception_text.startswith(OVERTAKEN + FAILED) and bool(shuffles_of(ts))


def shuffles_of(ts: TaskState) -> list[ShuffleId]:
    """The shuffles of which ``ts`` is an input, the barrier or an output."""
    around = (ts, *ts.dependencies, *ts.dependents)
    return [found for task in around if (found := id_from_key(task.key))]
