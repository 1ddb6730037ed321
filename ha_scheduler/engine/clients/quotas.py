"""What narrows a client beside its role: the scopes of its token, and some lines of configuration.

Guarantee: a graph that its client's scopes do not allow makes no task and is not recorded; its keys
are errors that name the scope. The quotas count what the subject has in the cell, whichever of its
clients or tasks has submitted it, and under whichever leader.

Cost: nothing for who has no such scope. For who has ``tasks_max``, one look at each known task of
the subject for each graph, at most until the quota is found to be full.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import dask

from ha_scheduler.engine.holders import Holder
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.state import StreamScheduler
from ha_scheduler.protocol.codec import shown
from ha_scheduler.security.permissions import Surface, rows

#: Turned off for everybody but an admin by ``<this>.<scope>: false``.
CONFIGURATION = "ha.scheduler"
#: Outstanding tasks of each subject whose token does not say it.
TASKS_MAX = f"{CONFIGURATION}.tasks-max"
#: Requests that need a scope.
SCOPED: Mapping[str, str] = {
    name: row.scope for (surface, name), row in rows().items() if surface is Surface.REQUEST
}
OUTSTANDING = frozenset({"waiting", "queued", "no-worker", "processing"})


def is_off(op: str) -> str | None:
    """Why nobody but an admin may ask for ``op`` in this cell, or None."""
    scope = SCOPED.get(op)
    name = f"{CONFIGURATION}.{scope.replace('_', '-')}" if scope else ""
    if not name or dask.config.get(name, True):
        return None
    return f"{op} is turned off in this cell ({name}: false), and takes the role admin"


def check_graph(
    scheduler: StreamScheduler,
    holder: Holder,
    dsk: Mapping[Key, Any],
    size: int,
    priorities: Iterable[Any],
) -> None:
    """Raises ``PermissionError``. ``size``: of the graph in the ledger, in bytes."""
    scopes = holder.scopes
    check_prefix(holder, dsk)
    if scopes.priority_max is not None:
        for priority in priorities:
            if not isinstance(priority, int | float) or priority > scopes.priority_max:
                raise _beyond(holder, "priority_max", f"{shown(priority)} is above it")
    _check_outstanding(scheduler, holder, len(dsk))
    if scopes.bytes_max is not None:
        kept = sum(scheduler.graphs.sizes[g] for g in scheduler.graphs.of_subject(holder.subject))
        if kept + size > scopes.bytes_max:
            raise _beyond(holder, "bytes_max", f"{kept} bytes are kept, {size} would be added")


def _check_outstanding(scheduler: StreamScheduler, holder: Holder, added: int) -> None:
    """By the scope, or else by what is configured for everybody."""
    scoped, common = holder.scopes.tasks_max, dask.config.get(TASKS_MAX, None)
    limit = scoped if scoped is not None else common
    if limit is None:
        return
    there = _outstanding(scheduler, holder.subject, limit - added)
    if there + added <= limit:
        return
    why = f"{there} tasks or more are not finished, {added} would be added"
    if scoped is not None:
        raise _beyond(holder, "tasks_max", why)
    raise PermissionError(
        f"{holder.subject or 'everybody'} may have {limit} outstanding tasks in this cell "
        f"({TASKS_MAX}): {why}. Wait, submit less at once, or have the operator raise it"
    )


def check_prefix(holder: Holder, keys: Iterable[Key]) -> None:
    """Raises ``PermissionError`` for a key that does not begin as the scope says."""
    prefix = holder.scopes.key_prefix
    for key in keys if prefix else ():
        name = key[0] if isinstance(key, tuple) and key else key
        if not isinstance(name, str) or not name.startswith(prefix):
            raise _beyond(holder, "key_prefix", f"{shown(key)} does not begin with {prefix!r}")


def priorities_of(arguments: Mapping[str, Any]) -> Iterable[Any]:
    """All that a graph asks for; ``arguments``: of upstream's ``_create_taskstate_from_graph``."""
    asked = arguments.get("user_priority", 0)
    yield from asked.values() if isinstance(asked, dict) else (asked,)
    annotations = arguments.get("global_annotations") or {}
    if "priority" in annotations:
        yield annotations["priority"]
    by_type = arguments.get("annotations_by_type") or {}
    yield from (by_type.get("priority") or {}).values()


def _outstanding(scheduler: StreamScheduler, subject: str, enough: int) -> int:
    """How many tasks of ``subject`` are not finished; more than ``enough`` are not counted."""
    count = 0
    for graph in scheduler.graphs.of_subject(subject):
        keys: Collection[Key] = scheduler.graphs.keys_of(graph)
        found = (scheduler.tasks.get(key) for key in keys)
        count += sum(1 for ts in found if ts is not None and ts.state in OUTSTANDING)
        if count > enough:
            break
    return count


def _beyond(holder: Holder, scope: str, why: str) -> PermissionError:
    limit = getattr(holder.scopes, scope)
    return PermissionError(
        f"the token of {holder.subject} has the scope {scope} = {limit!r}: {why}. Wait, or have an "
        f"admin issue another token"
    )
