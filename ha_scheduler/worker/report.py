"""What a worker tells a leader that it joins: everything it holds and everything it runs.

Guarantee: a report is one consistent instant of the worker's state machine, because it is taken
without an ``await``. It never touches the values in ``state.data``: reading one would bring spilled
data back into memory.

A task that the worker was told to compute and has not finished is "running", in whatever state it
waits. Cancelled tasks are left out: no leader wants them. A resumed one counts, its computation
still goes on under its old run id.
"""

from __future__ import annotations

from typing import Any

from dask.utils import typename

RUNNING = frozenset({"waiting", "ready", "constrained", "executing", "long-running", "resumed"})

Report = dict[str, list[Any]]


def snapshot(state: Any) -> Report:
    """The report of a ``distributed.worker_state_machine.WorkerState``."""
    memory: list[tuple[Any, int, str]] = []
    running: list[tuple[Any, int, str]] = []
    erred: list[tuple[Any, int]] = []
    names: dict[type | None, str] = {None: ""}
    for key, task in state.tasks.items():
        if task.state == "memory":
            if task.type not in names:
                names[task.type] = typename(task.type)
            memory.append((key, task.nbytes or 0, names[task.type]))
        elif task.state in RUNNING:
            running.append((key, task.run_id, task.state))
        elif task.state == "error":
            erred.append((key, task.run_id))
    return {"memory": memory, "running": running, "erred": erred, "actors": list(state.actors)}
