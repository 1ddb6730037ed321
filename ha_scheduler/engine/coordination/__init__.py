"""Coordination objects that survive the leader: upstream's scheduler extensions, recorded.

A module for each kind. A change takes effect here and enters the event stream in one event-loop
step (``stream/transactions.py``), and is told to nobody before its commit (``stream/calls.py``).
The rows are replicated tables (``stream/tables.py``).
"""

from __future__ import annotations

from typing import Any

from ha_scheduler.engine.coordination.datasets import Datasets
from ha_scheduler.engine.coordination.events import Events
from ha_scheduler.engine.coordination.multi_locks import MultiLocks
from ha_scheduler.engine.coordination.queues import Queues
from ha_scheduler.engine.coordination.semaphores import Semaphores
from ha_scheduler.engine.coordination.variables import Variables
from ha_scheduler.protocol.client import LockForgotten
from ha_scheduler.protocol.codec import tag_of

#: In place of the extensions of the same names (scheduler.py:189).
EXTENSIONS: dict[str, Any] = {
    "queues": Queues,
    "variables": Variables,
    "semaphores": Semaphores,
    "multi_locks": MultiLocks,
    "events": Events,
    "publish": Datasets,
}

#: The calls that read or write what is in this package.
OPERATIONS = frozenset(
    {
        *("queue_create", "queue_release", "queue_put", "queue_get", "queue_qsize"),
        *("variable_set", "variable_get", "variable_delete"),
        *("semaphore_register", "semaphore_acquire", "semaphore_release", "semaphore_close"),
        *("semaphore_refresh_leases", "semaphore_value", tag_of(LockForgotten)),
        *("multi_lock_acquire", "multi_lock_release"),
        *("event_wait", "event_set", "event_clear", "event_is_set"),
        *("publish_put", "publish_get", "publish_delete", "publish_list"),
        *("set_metadata", "get_metadata", "start_task_metadata", "stop_task_metadata"),
        *("set_restrictions", "log_event", "events"),
    }
)
