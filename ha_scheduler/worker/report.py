"""A worker's report to a leader that it joins: everything it holds and runs.

Guarantee: a report is one instant of the worker's state machine, taken without an ``await``. It
never reads values of ``state.data``, which would unspill them.

An unfinished task that the worker was told to compute is "running", in whatever state. Cancelled
tasks are left out. A task that was resumed to be computed is as any other. One that was resumed to
fetch its result still runs under its old run id, but no leader counts on it and its end will be
reported as that of a transfer: it is ``FETCHING``, and a leader that wants it computed says so
again. An erred task comes with its error, which no leader may have recorded; a failed transfer is
no error. A result comes with its task's metadata (``get_task_metadata``).

Results and errors have the id of their run, or -1 if fetched or scattered. ``heard`` and
``fetched`` of the registration date those (``runs.py``).
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


def report_of(state: Any, **rest: Any) -> Report:
    """The report of a ``WorkerState``, with the ``rest`` of its fields."""
    memory: list[tuple[Any, int, str, int]] = []
    running: list[tuple[Any, int, str]] = []
    erred: list[tuple[Any, bytes, int]] = []
    metadata: list[tuple[Any, bytes]] = []
    names: dict[type | None, str] = {None: ""}
    for key, task in state.tasks.items():
        if task.state == "memory":
            if task.type not in names:
                names[task.type] = typename(task.type)
            size = max(0, int(task.nbytes or 0))  # a user's ``sizeof`` may return any number
            memory.append((key, size, names[task.type], task.run_id))
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
    """The P2P shuffle runs of the worker, and those that it was told to end.

    Each is (id of the shuffle, id of the run, whether it goes on).
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
    try:
        data = bytes(dumps(task.metadata))
    except Exception:  # pickle runs the code of users
        logger.warning(
            "The metadata of %r is not told to the next leader",
            task.key,
            exc_info=True,
            extra={"action": "metadata_untold"},
        )
        return None
    return data if len(data) <= METADATA_BYTES_MAX else None


def _error(task: Any) -> bytes | None:
    error = {
        # Wrapped, and pickled already (core.py:1616)
        "exception": getattr(task.exception, "data", None),
        "traceback": getattr(task.traceback, "data", None),
        "exception_text": task.exception_text,
        "traceback_text": task.traceback_text,
    }
    data = bytes(dumps(error))
    return data if len(data) <= ERROR_BYTES_MAX else None
