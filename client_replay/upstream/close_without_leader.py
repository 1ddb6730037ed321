"""``Queue.close`` and ``Variable.delete`` while nobody leads.

Upstream forgets both unless its client is connected at that moment (queues.py:299,
variable.py:256). A client of ours sends them later, as numbered calls.
"""

from __future__ import annotations

from typing import Any

from distributed import Queue, Variable

_close, _delete = Queue.close, Variable.delete


def _close_queue(queue: Any) -> None:
    if not _give_up(queue, "queue_release"):
        _close(queue)


def _delete_variable(variable: Any) -> None:
    if not _give_up(variable, "variable_delete"):
        _delete(variable)


def _give_up(thing: Any, op: str) -> bool:
    """Whether its client is one of ours and looks for the leader; it sends the call then."""
    client = thing.client
    if not hasattr(client, "_ha") or client.status != "connecting":
        return False
    client._send_to_scheduler({"op": op, "name": thing.name})
    return True


def install() -> None:
    """Replace the two methods; idempotent."""
    Queue.close, Variable.delete = _close_queue, _delete_variable  # type: ignore[method-assign]
