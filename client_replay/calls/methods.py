"""What the user called, of the operations on the wire.

An error names the method that somebody can find in a program, and not what it became.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF_SCHEDULER = {
    "run_function": "Client.run_on_scheduler",
    "terminate": "Client.shutdown",
    "feed": "a stream of the scheduler's state",
    "subscribe_worker_status": "a Cluster's watch of its workers",
    "queue_create": "Queue",
    "queue_release": "Queue.close",
    "multi_lock_acquire": "MultiLock.acquire",
    "multi_lock_release": "MultiLock.release",
    "semaphore_register": "Semaphore",
    "publish_put": "Client.publish_dataset",
    "publish_delete": "Client.unpublish_dataset",
    "register_scheduler_plugin": "Client.register_plugin",
    "start_task_metadata": "get_task_metadata",
    "stop_task_metadata": "get_task_metadata",
}
_OF_WORKERS = {"run": "Client.run", "get_logs": "Client.get_worker_logs"}
_OBJECTS = {"queue": "Queue", "variable": "Variable", "event": "Event", "semaphore": "Semaphore"}


def method_of(op: str, arguments: Mapping[str, Any]) -> str:
    """The name of the method, such as ``Client.run``; of an unknown operation its own."""
    if op in ("broadcast", "proxy"):
        inner = arguments.get("msg", {}).get("op", op)
        return _OF_WORKERS.get(inner, f"a call of {inner!r} on workers")
    if op in _OF_SCHEDULER:
        return _OF_SCHEDULER[op]
    thing, _, verb = op.partition("_")
    if thing in _OBJECTS and verb:
        return f"{_OBJECTS[thing]}.{verb}"
    return f"Client.{op}" if op in _CLIENTS_OWN else op


_CLIENTS_OWN = frozenset(
    {
        *("restart", "restart_workers", "retire_workers", "retry", "scatter", "set_metadata"),
        *("unregister_worker_plugin", "unregister_nanny_plugin", "unregister_scheduler_plugin"),
        *("log_event", "replicate", "rebalance"),
    }
)
