"""A worker's registration with a leader, and the leader's answer.

Guarantee: only a leader of the worker's cell, or of its successor, whose term is at least the
highest one seen is accepted. Any other answer is an exception: look for the leader again, retry
later, begin anew in another cell, or (first registration only) give up.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distributed.metrics import time
from distributed.versions import get_versions

from ha_scheduler.comm.directory import View
from ha_scheduler.protocol.client import HA, Welcome
from ha_scheduler.protocol.codec import from_op, to_op
from ha_scheduler.protocol.ring import RINGS, Ring
from ha_scheduler.protocol.worker import OTHER_CELL, STALE, Joining, RegisterWorker, Report


class StaleLeader(OSError):
    """Remote: it leads no longer, perhaps without knowing."""


class AnotherCell(OSError):
    """Remote: it leads another cell than the worker's, and takes nothing of what that holds."""

    def __init__(self, view: View) -> None:
        super().__init__(f"{view.leader} leads another cell, {view.cell_id}")
        self.view = view


class RegistrationRefused(Exception):
    """Remote: the leader does not take this worker, and says why."""


class PlainScheduler(Exception):
    """Remote: an unmodified scheduler, not an engine of a cell."""


@dataclass(frozen=True, slots=True)
class Registered:
    time: float
    plugins: Mapping[str, bytes]
    view: View | None  # None for a plain scheduler
    warning: str | None
    ring: Ring | None = None


def upstream_message(worker: Any, metrics: Mapping[str, Any], extra: Any) -> dict[str, Any]:
    """The fields of worker.py:1097, ``Worker._register_with_scheduler``."""
    return {
        "op": "register-worker",
        "reply": False,
        "address": worker.contact_address,
        "status": worker.status.name,
        "nthreads": worker.state.nthreads,
        "name": worker.name,
        "now": time(),
        "resources": worker.state.total_resources,
        "memory_limit": worker.memory_manager.memory_limit,
        "local_directory": worker.local_directory,
        "services": worker.service_ports,
        "nanny": worker.nanny,
        "pid": os.getpid(),
        "versions": get_versions(),
        "metrics": metrics,
        "extra": extra,
        "stimulus_id": f"worker-connect-{time()}",
        "server_id": worker.id,
    }


def message(
    upstream: Mapping[str, Any],
    *,
    term: int,
    report: Report,
    plugins: Mapping[str, str],
    cell_id: str,
) -> dict[str, Any]:
    """The registration of a worker that follows leaders.

    Before any leader has answered it asks for a reply: a scheduler that does not know the operation
    then answers None at once (core.py:829), and nothing otherwise.
    """
    address, server_id, nanny = (upstream[name] for name in ("address", "server_id", "nanny"))
    joining = Joining(term, report, dict(plugins), cell_id)
    ours = to_op(RegisterWorker(address, server_id, nanny, joining))
    return {**upstream, **ours, "reply": term == 0}


def understand(reply: Any, term_seen: int, cell_id: str = "") -> Registered:
    """Read the answer. ``term_seen``: of the cell ``cell_id``.

    Raises ``StaleLeader``, ``AnotherCell``, ``RegistrationRefused``, ``PlainScheduler`` or
    ``MalformedMessage``.
    """
    if reply is None:
        raise PlainScheduler("the scheduler does not know ha-register-worker")
    status = reply.get("status")
    if status == STALE:
        raise StaleLeader(f"it is of term {reply.get('term')}, and {term_seen} has been seen")
    welcome = from_op(Welcome, reply[HA]) if HA in reply else None
    if status == OTHER_CELL and welcome is not None:
        raise AnotherCell(View.from_welcome(welcome))
    if status != "OK":
        raise RegistrationRefused(str(reply.get("message", reply)))
    ours = welcome is not None and welcome.cell_id in ("", cell_id)
    if welcome is not None and (ours or not cell_id) and welcome.term < term_seen:
        raise StaleLeader(f"it is of term {welcome.term}, and {term_seen} has been seen")
    return Registered(
        time=reply["time"],
        plugins=reply["worker-plugins"],
        view=View.from_welcome(welcome) if welcome is not None else None,
        warning=reply.get("warning"),
        ring=RINGS.decode(welcome.ring) if welcome is not None and welcome.ring else None,
    )
