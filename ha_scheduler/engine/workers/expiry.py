"""What becomes of connections whose token has run out while they are in use.

Guarantee: a worker whose token has run out gets no new work and keeps its results, which others may
fetch; with its next connection, under a renewed token, it works on (``worker/renewal.py``). Another
connection is cut ``CUT_AFTER_S`` later: a client with a renewed token comes back as after a change
of leaders and loses nothing, and who has none is told so.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from distributed.core import Status
from distributed.metrics import time as wall_time

from ha_scheduler.comm.roles import identity_of
from ha_scheduler.security.identity import TokenRole
from ha_scheduler.security.token import LEEWAY_S

CHECK_EVERY_S = 1.0
CUT_AFTER_S = 600.0  # for whoever renews a file a little late

logger = logging.getLogger("distributed.scheduler.ha")


def check(scheduler: Any, now: float | None = None) -> None:
    """Do what is due. ``now``: seconds of the epoch."""
    now = time.time() if now is None else now
    for address, stream in list(scheduler.stream_comms.items()):
        ws = scheduler.workers.get(address)
        working = ws is not None and ws.status is Status.running and stream.comm is not None
        if working and _is_over(stream.comm, now):
            logger.warning(
                "Worker %s gets no new work: its token has run out; renew it",
                address,
                extra={"action": "worker_token_expired"},
            )
            scheduler.handle_worker_status_change(
                Status.paused, address, stimulus_id=f"token-expired-{wall_time()}"
            )
    for comm in list(scheduler._comms):
        identity = identity_of(comm)
        if identity.role is not TokenRole.WORKER and _is_over(comm, now - CUT_AFTER_S):
            logger.warning(
                "Cut the connection of %s at %s: its token has run out",
                identity.subject,
                comm.peer_address,
                extra={"action": "connection_cut"},
            )
            comm.abort()


def _is_over(comm: Any, now: float) -> bool:
    return identity_of(comm).expires + LEEWAY_S < now
