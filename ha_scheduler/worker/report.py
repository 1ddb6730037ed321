"""What a worker tells a leader that it joins: everything it holds and everything it runs.

Guarantee: a report is one consistent instant of the worker's state machine, because it is taken
without an ``await``. It never touches the values in ``state.data``: reading one would bring spilled
data back into memory.

A task that the worker was told to compute and has not finished is "running", in whatever state it
waits. Cancelled tasks are left out: no leader wants them. A resumed one counts, with what it was
resumed for. If that is to compute it, it is as any other. If it is to fetch its result from another
worker, its computation still goes on under its old run id, but no leader counts on it, and its end
will be told as that of a transfer: it is ``FETCHING``, and a leader that does want it computed says
so again. An erred task comes with its error, which no leader may have written down yet; one that
failed to arrive here from another worker has not erred. A result comes with the metadata that its
task left (``get_task_metadata``).

Results and errors come with the id of their run, or -1 for what was fetched from another worker or
scattered. ``heard`` and ``fetched``, in the registration, say how new that is (see ``runs.py``).
"""

from __future__ import annotations

import logging
from typing import Any

from dask.utils import typename
from distributed.protocol.pickle import dumps
from distributed.worker_state_machine import RUN_ID_SENTINEL

from ha_scheduler.protocol.worker import ERROR_BYTES_MAX, FETCHING, METADATA_BYTES_MAX, Report

logger = logging.getLogger("distributed.worker.ha")

FAILED_RUNS_MAX = 1_000  # runs of shuffles that ended here and that are told of, the newest

RUNNING = frozenset({"waiting", "ready", "constrained", "executing", "long-running", "resumed"})


def snapshot(state: Any, **rest: Any) -> Report:
    """The report of a ``distributed.worker_state_machine.WorkerState``, with the ``rest`` of it."""
    memory: list[tuple[Any, int, str, int]] = []
    running: list[tuple[Any, int, str]] = []
    erred: list[tuple[Any, bytes, int]] = []
    metadata: list[tuple[Any, bytes]] = []
    names: dict[type | None, str] = {None: ""}
    for key, task in state.tasks.items():
        if task.state == "memory":
            if task.type not in names:
                names[task.type] = typename(task.type)
            memory.append((key, task.nbytes or 0, names[task.type], task.run_id))
            left = _metadata(task) if task.metadata else None
            if left is not None:
                metadata.append((key, left))
        elif task.state in RUNNING:
            fetching = task.state == "resumed" and task.next == "fetch"
            running.append((key, task.run_id, FETCHING if fetching else task.state))
        elif task.state == "error" and task.run_id != RUN_ID_SENTINEL:
            error = _error(task)
            if error is not None:
                erred.append((key, error, task.run_id))
    return Report(
        memory=tuple(memory),
        running=tuple(running),
        erred=tuple(erred),
        actors=tuple(state.actors),
        metadata=tuple(metadata),
        **rest,
    )


def shuffle_runs(worker: Any) -> tuple[tuple[str, int, bool], ...]:
    """The runs of P2P shuffles that the worker has, and those that it was told to end.

    Each is the id of the shuffle, that of the run, and whether it goes on.
    """
    plugin = worker.plugins.get("shuffle")
    if plugin is None:
        return ()
    runs = plugin.shuffle_runs
    ended = list(runs._stale_run_ids.items())[-FAILED_RUNS_MAX:]
    return (
        *((shuffle, run.run_id, True) for shuffle, run in runs._active_runs.items()),
        *((shuffle, run_id, False) for shuffle, run_id in ended),
    )


def _metadata(task: Any) -> bytes | None:
    """What the task left besides its result, or None if it is too large or cannot be pickled."""
    try:
        data = bytes(dumps(task.metadata))
    except Exception:
        logger.warning("The metadata of %r is not told to the next leader", task.key, exc_info=True)
        return None
    return data if len(data) <= METADATA_BYTES_MAX else None


def _error(task: Any) -> bytes | None:
    """What the task failed with, or None if it is too large to tell."""
    error = {
        # Wrapped, and pickled already (core.py:1616)
        "exception": getattr(task.exception, "data", None),
        "traceback": getattr(task.traceback, "data", None),
        "exception_text": task.exception_text,
        "traceback_text": task.traceback_text,
    }
    data = bytes(dumps(error))
    return data if len(data) <= ERROR_BYTES_MAX else None
